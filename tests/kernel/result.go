package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"
)

// event is a line of test2json (go doc test2json).
type event struct {
	Action, Test, Output string
}

// result of one package on one kernel. Tests and their subtests count alike.
type result struct {
	kernel, pkg             string
	passed, failed, skipped int
	took                    time.Duration
	bad                     string // why the package failed, where no test of it did
	skips                   []string
}

func (r result) ok() bool { return r.failed == 0 && r.bad == "" && r.passed > 0 }

// errSilent: the machine ended before anything of ours ran in it.
var errSilent = errors.New("it ended without a word")

// read what init.sh says: lines that begin with @@ are its own, between "begin" and "end" speaks a test binary.
func read(ctx context.Context, version string, out io.Reader, o opts) (results []result, err error) {
	lines := bufio.NewReader(out)
	for silent := true; ; silent = false {
		line, err := lines.ReadString('\n')
		if silent && err == io.EOF {
			return nil, errSilent
		}
		if err != nil {
			return results, fmt.Errorf("it ended early: %w", err)
		}
		switch word := strings.Fields(line); {
		case len(word) == 2 && word[0] == "@@" && word[1] == "done":
			return results, nil
		case len(word) == 3 && word[0] == "@@" && word[1] == "begin":
			r := result{kernel: version, pkg: word[2]}
			err := r.read(ctx, lines, o.verbose)
			results = append(results, r)
			fmt.Printf("%s %s: %d passed, %d failed, %d skipped, %s %s\n", version, r.pkg, r.passed, r.failed, r.skipped, r.took.Round(time.Second), r.bad)
			if err != nil {
				return results, fmt.Errorf("in the tests of %s: %w", r.pkg, err)
			}
		default:
			fmt.Print(version, ": ", line)
			if strings.HasPrefix(line, "@@ failed") {
				return results, errors.New(strings.TrimSpace(line[3:]))
			}
		}
	}
}

// read the tests of one package, by way of test2json, which knows what of it is a test's output.
func (r *result) read(ctx context.Context, lines *bufio.Reader, verbose bool) error {
	start := time.Now()
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	end := make(chan error, 1)
	go func() {
		status, err := copyUntilEnd(in, lines)
		if status != "0" {
			r.bad = "exit status " + status
		}
		end <- errors.Join(err, in.Close())
	}()
	err = r.count(out, verbose)
	err = errors.Join(err, <-end, cmd.Wait())
	r.took = time.Since(start)
	return err
}

func copyUntilEnd(to io.Writer, lines *bufio.Reader) (status string, err error) {
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return "unknown", fmt.Errorf("it ended early: %w", err)
		}
		if words := strings.Fields(line); len(words) == 4 && words[0] == "@@" && words[1] == "end" {
			return words[3], nil
		}
		if _, err := io.WriteString(to, line); err != nil {
			return "unknown", err
		}
	}
}

// count the events, and show what failed.
func (r *result) count(in io.Reader, verbose bool) error {
	said := make(map[string]string)
	events := json.NewDecoder(in)
	for {
		var e event
		err := events.Decode(&e)
		if errors.Is(err, io.EOF) {
			delete(said, "")
			if verbose {
				return nil
			}
			for _, s := range said { // of tests that did not end: a panic, or a timeout
				fmt.Printf("%s %s:\n%s", r.kernel, r.pkg, s)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if e.Output != "" {
			said[e.Test] += e.Output
			if verbose {
				fmt.Print(e.Output)
			}
		}
		if e.Test == "" && e.Action == "fail" && r.failed == 0 && !verbose {
			fmt.Print(said[""]) // of TestMain, for instance
		}
		if e.Test == "" {
			continue
		}
		switch e.Action {
		case "pass":
			r.passed++
		case "skip":
			r.skipped++
			r.skips = append(r.skips, e.Test+": "+reason(said[e.Test]))
		case "fail":
			r.failed++
			if !verbose {
				fmt.Printf("%s %s:\n%s", r.kernel, r.pkg, said[e.Test])
			}
		}
		if e.Action == "pass" || e.Action == "skip" || e.Action == "fail" {
			delete(said, e.Test)
		}
	}
}

// reason is what a skipped test said, without what package testing adds.
func reason(said string) string {
	var out []string
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			out = append(out, line)
		}
	}
	return strings.Join(out, " ")
}

// report prints the skips with their reasons and the table, and fails if anything did.
func report(all []result) error {
	for _, r := range all {
		for _, s := range r.skips {
			fmt.Printf("skipped on %s: %s %s\n", r.kernel, r.pkg, s)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nkernel\tpackage\tpassed\tfailed\tskipped\ttime\t")
	bad := 0
	for _, r := range all {
		if !r.ok() {
			bad++
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\n", r.kernel, r.pkg, r.passed, r.failed, r.skipped, r.took.Round(time.Second), r.bad)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d runs failed", bad, len(all))
	}
	return nil
}
