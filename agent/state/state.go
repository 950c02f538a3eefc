//go:build linux

// Package state is what a running agent tells of itself on its socket, to berth-agent doctor and berth-agent trace: what it wants of
// its node, which they compare with what is there.
package state

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/delegate"
)

// State of an agent. It is internal to one version of Berth.
type State struct {
	Node       string       `json:"node"`
	Ready      bool         `json:"ready"`
	Path       *path.Wanted `json:"path,omitempty"` // nil: without service path
	Interfaces []Interface  `json:"interfaces"`     // of pods of this node, that hold a lease
}

// Interface of a pod.
type Interface struct {
	Namespace string       `json:"namespace"`
	Pod       string       `json:"pod"`
	UID       string       `json:"uid,omitempty"`
	Name      string       `json:"name"`             // in the pod
	NetNS     string       `json:"netns,omitempty"`  // CNI_NETNS; empty if it is not known
	Parent    string       `json:"parent,omitempty"` // empty: not a macvlan child in bridge mode
	MAC       string       `json:"mac,omitempty"`
	Network   string       `json:"network"`
	Addresses []netip.Addr `json:"addresses"`
	Guard     *Guard       `json:"guard,omitempty"` // nil: it is not guarded
}

// Guard of an interface: what it may send as, besides its MAC.
type Guard struct {
	Addresses []netip.Addr   `json:"addresses"` // in the order of the program's
	Allowed   []netip.Prefix `json:"allowed,omitempty"`
	DHCP      bool           `json:"dhcp,omitempty"`
}

// NetNSFile is where the namespace is found in a directory that has what the host has in /run/netns; "" if the agent does not know one
// that is there.
func (i Interface) NetNSFile(dir string) string {
	in, name := filepath.Split(i.NetNS)
	if in = strings.TrimPrefix(in, "/var"); in != "/run/netns/" || name == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

// Ask the agent on the socket.
func Ask(ctx context.Context, socket string) (*State, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://berth"+delegate.PathState, nil)
	if err != nil {
		return nil, err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("the agent does not answer on %s: %w", socket, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the agent answers %s on %s: it is of another version", res.Status, delegate.PathState)
	}
	s := &State{}
	if err := json.NewDecoder(res.Body).Decode(s); err != nil {
		return nil, fmt.Errorf("what the agent tells of itself: %w", err)
	}
	return s, nil
}
