package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// get prints status and body of a URL. It fails unless the status is 200, so
// that a test need not read what it printed.
func get(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("get", flag.ContinueOnError)
	timeout := f.Duration("timeout", 5*time.Second, "")
	v4 := f.Bool("4", false, "IPv4 only")
	v6 := f.Bool("6", false, "IPv6 only")
	if err := f.Parse(args); err != nil || f.NArg() != 1 {
		return fmt.Errorf("get: want one URL")
	}
	network := "tcp"
	if *v4 {
		network = "tcp4"
	} else if *v6 {
		network = "tcp6"
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.Arg(0), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", f.Arg(0), resp.Status)
	}
	return nil
}

func udp(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("udp", flag.ContinueOnError)
	timeout := f.Duration("timeout", 2*time.Second, "")
	if err := f.Parse(args); err != nil || f.NArg() < 1 {
		return fmt.Errorf("udp: want HOST:PORT [TEXT]")
	}
	text := "ping"
	if f.NArg() > 1 {
		text = f.Arg(1)
	}
	c, err := (&net.Dialer{Timeout: *timeout}).DialContext(ctx, "udp", f.Arg(0))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(*timeout)); err != nil {
		return err
	}
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	n, err := c.Read(buf)
	if err != nil {
		return err
	}
	fmt.Printf("%s from %s\n", buf[:n], c.RemoteAddr())
	return nil
}

// Link is one link of the pod with its addresses.
type Link struct {
	Name  string   `json:"name"`
	MAC   string   `json:"mac,omitempty"`
	MTU   int      `json:"mtu"`
	Up    bool     `json:"up"`
	Addrs []string `json:"addrs"`
}

func addrs(context.Context, []string) error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	out := []Link{}
	for _, l := range links {
		as, err := l.Addrs()
		if err != nil {
			return err
		}
		link := Link{Name: l.Name, MAC: l.HardwareAddr.String(), MTU: l.MTU, Up: l.Flags&net.FlagUp != 0, Addrs: []string{}}
		for _, a := range as {
			link.Addrs = append(link.Addrs, a.String())
		}
		out = append(out, link)
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
