package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// proved says a thing that has been found so.
func proved(format string, args ...any) { say(paint("32", "   ok  ")+format, args...) }

func typed(argv []string) { say("%s", paint("36", "   $ "+strings.Join(argv, " "))) }

func bold(s string) string { return paint("1", s) }

// paint colours what goes to a terminal.
func paint(colour, s string) string {
	info, err := os.Stdout.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// indented sets the output of commands off. Commands write whole lines.
type indented struct{ w io.Writer }

func (i indented) Write(p []byte) (int, error) {
	lines := strings.TrimSuffix(string(p), "\n")
	_, err := fmt.Fprintln(i.w, "     "+strings.ReplaceAll(lines, "\n", "\n     "))
	return len(p), err
}
