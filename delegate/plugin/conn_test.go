package plugin

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An agent that is slow to accept has a queue that is full: the plugin waits for its turn, as long as it may.
func TestDialFullQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	if err := errors.Join(unix.Bind(l, &unix.SockaddrUnix{Name: path}), unix.Listen(l, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := dial(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if c, err := dial(path, 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a queue that stays full: %v, %v", c, err)
	}
	accepted := make(chan error, 1)
	go func() {
		time.Sleep(20 * time.Millisecond)
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		accepted <- errors.Join(err, unix.Close(fd))
	}()
	second, err := dial(path, time.Minute)
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
}

// Nobody answers: the plugin gives up in time.
func TestDialNoAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	if _, err := dial(path, time.Minute); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	if err := errors.Join(unix.Bind(l, &unix.SockaddrUnix{Name: path}), unix.Listen(l, 1)); err != nil {
		t.Fatal(err)
	}
	c, err := dial(path, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
}
