//go:build linux

package netns

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// Run a command in a namespace; it gives what the command prints.
func Run(t testing.TB, ns *NS, stdin string, command ...string) string {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	var err error
	ns.Do(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out.String())
	}
	return out.String()
}

// IP runs iproute2 commands, one a line.
func IP(t testing.TB, ns *NS, format string, args ...any) {
	t.Helper()
	Run(t, ns, fmt.Sprintf(format, args...), "ip", "-batch", "-")
}
