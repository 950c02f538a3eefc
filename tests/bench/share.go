package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/berthdev/berth/delegate"
)

// The shares of what an ADD costs, each measured alone: the plugin with an agent that answers at once, and the agent without a
// plugin. The floor's are a plugin that does nothing, and a write without one.

// serveStub answers every verb at once.
func serveStub(socket string) (io.Closer, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		answer := `{}`
		if r.URL.Path == delegate.PathAdd {
			answer = `{"cniVersion":"1.1.0","ips":[{"address":"10.210.0.2/16","gateway":"10.210.0.1"}],"dns":{}}`
		}
		_, _ = io.WriteString(w, answer)
	})}
	go func() { _ = srv.Serve(l) }()
	return srv, nil
}

// agentContender asks the agent as the plugin does, over a connection of its own each time, but starts no process.
type agentContender struct {
	*pluginContender
	client *http.Client
}

func newAgentContender(c *pluginContender, socket string) *agentContender {
	return &agentContender{c, &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) },
	}}}
}

func (c *agentContender) add(ctx context.Context, i int) error {
	c.sandboxes[i] = newSandbox(c.pods[i], c.kind)
	return c.post(ctx, delegate.PathAdd, c.sandboxes[i])
}

func (c *agentContender) del(ctx context.Context, i int) error {
	return c.post(ctx, delegate.PathDel, c.sandboxes[i])
}

func (c *agentContender) post(ctx context.Context, path string, s sandbox) error {
	body, err := json.Marshal(delegate.Request{ContainerID: s.containerID, NetNS: s.netns, IfName: podLink, Args: s.args,
		Config: json.RawMessage(c.config), MAC: "02:00:00:00:00:01"})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://berth"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("agent: %s: %s", res.Status, answer)
	}
	return err
}

// writeContender is the floor without a plugin.
type writeContender struct{ *floor }

func (c *writeContender) add(ctx context.Context, i int) error {
	return c.create(ctx, i, newSandbox(c.pods[i], c.kind).containerID)
}

func (c *writeContender) del(ctx context.Context, i int) error { return c.release(ctx, i) }
