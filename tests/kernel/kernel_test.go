package main

import (
	"bufio"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const said = "@@ begin bpf\n" +
	"\x16=== RUN   TestGood\n\x16--- PASS: TestGood (0.00s)\n" +
	"\x16=== RUN   TestModes\n\x16=== RUN   TestModes/tcx\n    a_test.go:1: the kernel has no tcx\n" +
	"\x16--- PASS: TestModes (0.00s)\n    \x16--- SKIP: TestModes/tcx (0.00s)\n\x16=== NAME  \n"

func TestRead(t *testing.T) {
	skips := []string{"TestModes/tcx: a_test.go:1: the kernel has no tcx"}
	for name, tt := range map[string]struct {
		said string
		want result
		ok   bool
		err  string
	}{
		"good": {said + "\x16PASS\n\n@@ end bpf 0\n@@ done\n", result{passed: 2, skipped: 1, skips: skips}, true, ""},
		"a test fails": {said + "\x16=== RUN   TestBad\n\x16--- FAIL: TestBad (0.00s)\n\x16FAIL\n\n@@ end bpf 1\n@@ done\n",
			result{passed: 2, failed: 1, skipped: 1, skips: skips, bad: "exit status 1"}, false, ""},
		"a test binary dies":   {said + "Killed\n\n@@ end bpf 137\n@@ done\n", result{passed: 2, skipped: 1, skips: skips, bad: "exit status 137"}, false, ""},
		"the machine dies":     {said, result{passed: 2, skipped: 1, skips: skips, bad: "exit status unknown"}, false, "in the tests of bpf: it ended early"},
		"no tests":             {"@@ begin bpf\nPASS\n@@ end bpf 0\n@@ done\n", result{}, false, ""},
		"a module is missing":  {"@@ failed insmod veth\n", result{}, false, "failed insmod veth"},
		"nothing":              {"", result{}, false, errSilent.Error()},
		"nothing of a package": {"modules\n", result{}, false, "it ended early"},
	} {
		t.Run(name, func(t *testing.T) {
			results, err := read(t.Context(), "6.1", bufio.NewReader(strings.NewReader(tt.said)), opts{})
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if !strings.HasPrefix(tt.said, "@@ begin") {
				return
			}
			tt.want.kernel, tt.want.pkg, tt.want.took = "6.1", "bpf", results[0].took
			if diff := cmp.Diff([]result{tt.want}, results, cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if results[0].ok() != tt.ok || (report(results) == nil) != tt.ok {
				t.Errorf("ok: %v", results[0].ok())
			}
		})
	}
}

func TestNewestVersion(t *testing.T) {
	for _, tt := range [][2]string{
		{"linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64"},
		{"linux-image-6.12.9+deb12-amd64", "linux-image-6.12.117+deb12-amd64"},
	} {
		if byVersion(tt[0], tt[1]) >= 0 {
			t.Errorf("%s is to be newer than %s", tt[1], tt[0])
		}
	}
}
