package plugin

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen on a socket with a queue of this length.
func listen(t *testing.T, backlog int) (fd int, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "agent.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, backlog)); err != nil {
		t.Fatal(err)
	}
	return fd, path
}

// An agent that is slow to accept has a queue that is full: the plugin waits for its turn, as long as it may.
func TestDialFullQueue(t *testing.T) {
	l, path := listen(t, 0)
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
	if _, err := dial(filepath.Join(t.TempDir(), "agent.sock"), time.Minute); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
	_, path := listen(t, 1)
	c, err := dial(path, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
}
