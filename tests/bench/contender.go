package main

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// contender gives addresses, and takes them back.
type contender interface {
	add(ctx context.Context, i int) error // for pod i
	del(ctx context.Context, i int) error
}

// pluginContender is a CNI IPAM plugin.
type pluginContender struct {
	plugin
	kind      string
	pods      []pod
	sandboxes []sandbox // by pod
}

func newPluginContender(p plugin, kind string, pods []pod) *pluginContender {
	return &pluginContender{p, kind, pods, make([]sandbox, len(pods))}
}

func (c *pluginContender) add(ctx context.Context, i int) error {
	c.sandboxes[i] = newSandbox(c.pods[i], c.kind)
	_, err := c.call(ctx, "ADD", c.sandboxes[i])
	return err
}

func (c *pluginContender) del(ctx context.Context, i int) error {
	_, err := c.call(ctx, "DEL", c.sandboxes[i])
	return err
}

// contenders by name. They are made once, since some must remember what they have given.
func (n *node) makeContenders() error {
	all := map[string]contender{}
	for _, k := range kinds {
		all["berth/"+k.name] = newPluginContender(plugin{n.path("berth"), berthConfig(k.mainPlugin, n.socket())}, k.name, n.pods)
	}
	all["host-local"] = newPluginContender(plugin{n.part("host-local"), fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "host-local",
		"type": "bridge", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.213.0.0/16"}]]}}`, n.path("host-local"))},
		"single", n.pods)

	noop := newPluginContender(plugin{n.path("noop"), berthConfig("bridge", n.socket())}, "single", n.pods)
	all["noop"] = noop
	for _, f := range []struct {
		name  string
		group schema.GroupVersion
	}{{"floor", floorGroup}, {"lease", leaseGroup}, {"write", floorGroup}} {
		floor, err := newFloor(n.agentID.rest, f.group, f.name, noop)
		if err != nil {
			return err
		}
		all[f.name] = floor
		if f.name == "write" {
			all[f.name] = &writeContender{floor}
		}
	}

	stub, err := serveStub(n.path("stub.sock"))
	if err != nil {
		return err
	}
	n.stub = stub
	all["plugin"] = newPluginContender(plugin{n.path("berth"), berthConfig("bridge", n.path("stub.sock"))}, "single", n.pods)
	all["agent"] = newAgentContender(newPluginContender(plugin{"", berthConfig("bridge", n.socket())}, "agent", n.pods), n.socket())
	n.contenders = all
	return nil
}
