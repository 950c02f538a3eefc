package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// programs that every packet of a pod meets, by their benchmark, and the nanoseconds over an empty program that each may take.
var programs = []struct {
	benchmark, name string
	aims            map[string]string
}{
	{"BenchmarkSteer/", "bpf/", map[string]string{"lookup": "", "steered_ipv4": "≤ 50", "steered_ipv6": "≤ 50", "guard/pass_ipv4": "≤ 30", "guard/pass_ipv6": "≤ 30"}},
	{"BenchmarkSource/", "bpf/source/", map[string]string{"ipv4": "≤ 30", "ipv6": "≤ 30"}},
}

// measurePrograms takes the cost of the programs from the benchmarks of package bpf, which run them in the kernel.
func measurePrograms(ctx context.Context, o options, r *report) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkSteer|BenchmarkSource", "-benchtime", "300000x",
		"-count", "7", "./bpf")
	cmd.Dir, cmd.Stderr = o.root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go test ./bpf: %w\n%s", err, out)
	}
	for _, p := range programs {
		names, times := parseBenchmark(out, p.benchmark)
		empty := summary(p.name+"empty", "ns", times["empty"], 0.5)
		if len(times["empty"]) == 0 {
			return fmt.Errorf("%s of ./bpf does not measure an empty program", p.benchmark)
		}
		for _, name := range names {
			if strings.HasPrefix(name, "once/") { // one packet a test run: the run itself is what that measures
				continue
			}
			res := summary(p.name+name, "ns", times[name], 0.5)
			if name != "empty" {
				res = res.against(empty, nil)
			}
			if err := r.add(res); err != nil {
				return err
			}
			if aim, ok := p.aims[name]; ok {
				over := Result{Name: res.Name + "-empty", Unit: "ns", Value: res.Value - empty.Value, Aim: aim}
				if err := r.add(over); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// "BenchmarkSteer/steered_ipv4-2   300000   47.15 ns/op"
var benchmarkLine = regexp.MustCompile(`^(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op`)

// parseBenchmark gives the names in their order, without prefix, and the times of each.
func parseBenchmark(out []byte, prefix string) (names []string, times map[string]sample) {
	times = map[string]sample{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		m := benchmarkLine.FindStringSubmatch(s.Text())
		if m == nil || !strings.HasPrefix(m[1], prefix) {
			continue
		}
		name := strings.TrimPrefix(m[1], prefix)
		ns, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			continue
		}
		if times[name] == nil {
			names = append(names, name)
		}
		times[name] = append(times[name], ns)
	}
	return names, times
}
