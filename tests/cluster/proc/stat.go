package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

type statLine struct {
	state byte
	start uint64
}

func stat(pid int) (statLine, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return statLine{}, err
	}
	return parseStat(string(b))
}

// parseStat reads proc_pid_stat(5). The command's name, in brackets, may hold
// blanks and brackets itself, so fields count from the last one.
func parseStat(s string) (statLine, error) {
	_, rest, ok := cutLast(s, ")")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return statLine{}, fmt.Errorf("stat %q: too few fields", s)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return statLine{}, fmt.Errorf("stat %q: start time: %w", s, err)
	}
	return statLine{state: f[0][0], start: start}, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// Tail returns the last n lines of a file, for error messages.
func Tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
