package plugin

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dial a unix socket, for timeout in all. Package net would cost the start more than all that the plugin says.
//
// The connection does not block, so that the plugin waits in the runtime's poller: while a thread waits in a system call, the runtime
// looks every 20 µs whether it has returned (runtime/proc.go, sysmon), which takes the processor from those who work on the answer.
func dial(socket string, timeout time.Duration) (io.ReadWriteCloser, error) {
	deadline := time.Now().Add(timeout)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
		if time.Now().After(deadline) {
			err = os.ErrDeadlineExceeded
			break
		}
		time.Sleep(time.Millisecond) // the queue of the socket is full
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	f := os.NewFile(uintptr(fd), socket)
	return f, f.SetDeadline(deadline)
}
