package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// proved says a thing that has been found so.
func proved(format string, args ...any) { say(paint("32", "   ok  ")+format, args...) }

func typed(line string) { say("%s", paint("36", "   $ "+line)) }

func bold(s string) string { return paint("1", s) }

// paint colours what goes to a terminal.
func paint(colour, s string) string {
	info, err := os.Stdout.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// indented sets lines off.
type indented struct {
	w      io.Writer
	inLine bool
}

func (i *indented) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if !i.inLine && len(line) > 1 {
			line = append([]byte("     "), line...)
		}
		i.inLine = line[len(line)-1] != '\n'
		if _, err := i.w.Write(line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
