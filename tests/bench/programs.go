package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// measurePrograms takes the cost of the programs from the benchmark of package bpf, which runs them in the kernel.
func measurePrograms(ctx context.Context, o options, r *report) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkSteer", "-benchtime", "300000x",
		"-count", "7", "./bpf")
	cmd.Dir, cmd.Stderr = o.root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go test ./bpf: %w\n%s", err, out)
	}
	names, times := parseBenchmark(out, "BenchmarkSteer/")
	empty := summary("bpf/empty", "ns", times["empty"], 0.5)
	if len(times["empty"]) == 0 {
		return errors.New("the benchmark of ./bpf does not measure an empty program")
	}
	for _, name := range names {
		if strings.HasPrefix(name, "once/") { // one packet a test run: the run itself is what that measures
			continue
		}
		res := summary("bpf/"+name, "ns", times[name], 0.5)
		if name != "empty" {
			res = res.against(empty, nil)
		}
		if err := r.add(res); err != nil {
			return err
		}
		if strings.HasPrefix(name, "steered_") {
			over := Result{Name: res.Name + "-empty", Unit: "ns", Value: res.Value - empty.Value, Aim: "≤ 60"}
			if err := r.add(over); err != nil {
				return err
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
