package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"
)

// crrCommand makes this program a client that connects, asks, is answered and closes, again and again.
const crrCommand = "connect-request-close"

const crrCount = 1000

func connectRequestClose(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s: want HOST:PORT", crrCommand)
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	trip := func() error {
		c, err := dialer.DialContext(ctx, "tcp", args[0])
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		buf := []byte{0}
		if _, err := c.Write(buf); err != nil {
			return err
		}
		_, err = c.Read(buf)
		return err
	}
	begin := time.Now()
	for range crrCount {
		if err := trip(); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{"perSecond": crrCount / time.Since(begin).Seconds()})
}
