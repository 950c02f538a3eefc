//go:build !linux

package delegate

import (
	"io"
	"net"
	"time"
)

func dial(socket string, timeout time.Duration) (io.ReadWriteCloser, error) {
	conn, err := net.DialTimeout("unix", socket, timeout)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(timeout))
}
