package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// who prints what the server at HOST:PORT says of who asked. A datagram of some size gets an answer of that size.
func who(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("who", flag.ContinueOnError)
	timeout := f.Duration("timeout", 5*time.Second, "")
	size := f.Int("size", 1, "bytes of the datagram, and of its answer")
	if err := f.Parse(args); err != nil || f.NArg() != 2 {
		return fmt.Errorf("who: want [-timeout 5s] [-size 1] tcp|udp|sctp HOST:PORT")
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	var a Answer
	var err error
	switch f.Arg(0) {
	case "tcp":
		a, err = whoTCP(ctx, f.Arg(1))
	case "udp":
		a, err = whoUDP(ctx, f.Arg(1), *size)
	case "sctp":
		a, err = whoSCTP(ctx, f.Arg(1))
	default:
		return fmt.Errorf("who: protocol %q is none of tcp, udp, sctp", f.Arg(0))
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(a)
}

func whoTCP(ctx context.Context, to string) (a Answer, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to, nil)
	if err != nil {
		return a, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

func whoUDP(ctx context.Context, to string, size int) (a Answer, err error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", to)
	if err != nil {
		return a, err
	}
	defer c.Close()
	for buf := make([]byte, 64<<10); ; {
		// Asked again, as datagrams are lost, and a kernel sends few ICMP errors in a second to one address.
		if _, err := c.Write(bytes.Repeat([]byte("?"), size)); err != nil {
			return a, err
		}
		if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return a, err
		}
		n, err := c.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
			continue
		case err != nil:
			return a, err
		case n < size:
			return a, fmt.Errorf("who: %d bytes answer %d", n, size)
		}
		return a, json.Unmarshal(buf[:n], &a)
	}
}

// whoPackets answers datagrams, from the address at which each came, which a host with several has to see to.
func whoPackets(c *net.UDPConn) error {
	if err := tellDestination(c, syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO); err != nil {
		return err
	}
	buf, control := make([]byte, 64<<10), make([]byte, 256)
	for {
		n, nc, _, from, err := c.ReadMsgUDPAddrPort(buf, control)
		if err != nil {
			return err
		}
		oob, local := destination(control[:nc])
		answer := answerTo(from.String(), local.String(), "UDP")
		if pad := n - len(answer); pad > 0 {
			answer = append(answer, bytes.Repeat([]byte(" "), pad)...)
		}
		if _, _, err := c.WriteMsgUDPAddrPort(answer, oob, from); errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}

// pmtu sends datagrams that may not be fragmented and are as long as the path is said to take, and prints how long that is once it is
// said to take less, or in the end.
func pmtu(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("pmtu", flag.ContinueOnError)
	timeout := f.Duration("timeout", 2*time.Second, "")
	if err := f.Parse(args); err != nil || f.NArg() != 1 {
		return fmt.Errorf("pmtu: want [-timeout 2s] HOST:PORT")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", f.Arg(0))
	if err != nil {
		return err
	}
	defer conn.Close()
	c := conn.(*net.UDPConn)
	level, discover, known, headers := syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_MTU, 28
	if c.RemoteAddr().(*net.UDPAddr).IP.To4() == nil {
		level, discover, known, headers = syscall.IPPROTO_IPV6, syscall.IPV6_MTU_DISCOVER, syscall.IPV6_MTU, 48
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	get := func() (mtu int, err error) {
		failed := raw.Control(func(fd uintptr) { mtu, err = syscall.GetsockoptInt(int(fd), level, known) })
		return mtu, errors.Join(failed, err)
	}
	failed := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), level, discover, syscall.IP_PMTUDISC_DO) })
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	first, err := get()
	if err != nil {
		return err
	}
	mtu := first
	for end := time.Now().Add(*timeout); mtu == first && time.Now().Before(end); {
		if _, err := c.Write(make([]byte, mtu-headers)); err != nil && !errors.Is(err, syscall.EMSGSIZE) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
		if mtu, err = get(); err != nil {
			return err
		}
	}
	fmt.Println(mtu)
	return nil
}
