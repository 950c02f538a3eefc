package plugin

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a connection to a unix socket, by system calls that block: the plugin has nothing else to do meanwhile, and package
// net would start threads and a poller for it, which take longer than all that the plugin says.
type conn struct {
	fd       int
	deadline time.Time
}

func dial(socket string, timeout time.Duration) (io.ReadWriteCloser, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	c := &conn{fd, time.Now().Add(timeout)}
	err = c.call("connect", unix.SO_SNDTIMEO, func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: socket}) })
	if err != nil && !errors.Is(err, unix.EISCONN) { // which it says if it was interrupted, and then asked again
		unix.Close(fd)
		return nil, err
	}
	return c, nil
}

func (c *conn) Read(p []byte) (n int, err error) {
	err = c.call("read", unix.SO_RCVTIMEO, func() error {
		n, err = unix.Read(c.fd, p)
		return err
	})
	if err == nil && n == 0 && len(p) > 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

func (c *conn) Write(p []byte) (done int, err error) {
	for done < len(p) && err == nil {
		err = c.call("write", unix.SO_SNDTIMEO, func() error {
			n, err := unix.SendmsgN(c.fd, p[done:], nil, nil, unix.MSG_NOSIGNAL)
			done += max(n, 0)
			return err
		})
	}
	return done, err
}

func (c *conn) Close() error { return unix.Close(c.fd) }

// call a system call until the deadline. A signal, which Go's runtime may send itself, interrupts it.
func (c *conn) call(name string, option int, f func() error) error {
	for {
		left := time.Until(c.deadline)
		if left <= 0 {
			return os.NewSyscallError(name, os.ErrDeadlineExceeded)
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, option, &tv); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		switch err := f(); {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return os.NewSyscallError(name, err)
		}
	}
}
