//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/tests/netns"
	"github.com/berthdev/berth/tests/plugins"
)

// office is a network with a DHCP server (RFC 2131), busybox's, that has one address to give, and the dhcp plugin's daemon on the node.
func office(t *testing.T, node *netns.NS, socket string) (said func() string) {
	t.Helper()
	server := netns.New(t)
	node.Do(func() {
		wire, err := netlink.LinkByName("wire0")
		if err == nil {
			err = netlink.LinkSetNsFd(wire, server.FD())
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	dir := t.TempDir()
	conf := fmt.Sprintf("interface wire0\nstart 10.77.0.5\nend 10.77.0.5\nlease_file %[1]s/leases\npidfile %[1]s/pid\nauto_time 1\n"+
		"option subnet 255.255.255.0\noption router 10.77.0.1\noption lease 600\n", dir)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "leases"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600)); err != nil {
		t.Fatal(err)
	}
	server.Do(func() {
		wire, err := netlink.LinkByName("wire0")
		if err != nil {
			t.Fatal(err)
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 0, 1), Mask: net.CIDRMask(24, 32)}}
		if err := errors.Join(netlink.AddrAdd(wire, addr), netlink.LinkSetUp(wire)); err != nil {
			t.Fatal(err)
		}
		daemon(t, "busybox", "udhcpd", "-f", filepath.Join(dir, "conf"))
	})
	said = daemon(t, filepath.Join(plugins.Build(t, "dhcp"), "dhcp"), "daemon", "-socketpath", socket, "-timeout", "3s", "-resendmax", "1s", "-resendtimeout", "5s")
	apitest.Eventually(t, "the daemon listens", func() error {
		_, err := os.Stat(socket)
		return err
	})
	return said
}

// daemon runs for the length of the test.
func daemon(t *testing.T, name string, args ...string) (said func() string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), filepath.Base(name))
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	said = func() string {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		out.Close()
		if t.Failed() {
			t.Logf("%s:\n%s", name, said())
		}
	})
	return said
}

// TestDHCP: a pool hands its addresses over to the office's DHCP server, through the dhcp plugin and its daemon: what the server gives is a
// lease, and goes back to the server with the pod. (That server does not hear the daemon, whose release is from 0.0.0.0 to one address.)
func TestDHCP(t *testing.T) {
	r := newCNINode(t, "macvlan", "10.6.0.7")
	socket := filepath.Join(t.TempDir(), "dhcp.sock")
	plugins.Build(t, "dhcp") // beside the others
	said := office(t, r.node, socket)
	r.pool("office", fmt.Sprintf(`{delegate: {type: dhcp, config: {daemonSocketPath: %s}}}`, socket))
	apitest.Eventually(t, "the agent knows the pool", func() error {
		if r.pools.named(r.name+"-office") == nil {
			return errors.New("not yet")
		}
		return nil
	})

	list := r.list(r.network("1.1.0"))
	first, second := r.pod("first", "berth.dev/ippool=$office"), r.pod("second", "berth.dev/ippool=$office")
	one, two := runtimeConf(first, "s1", netns.New(t)), runtimeConf(second, "s2", netns.New(t))
	var res *types100.Result
	r.must("ADD", func() error {
		got, err := r.cni.AddNetworkList(t.Context(), list, one)
		if err != nil {
			return err
		}
		res, err = types100.GetResult(got)
		return err
	})
	if len(res.IPs) != 1 || res.IPs[0].Address.String() != "10.77.0.5/24" || !res.IPs[0].Gateway.Equal(net.IPv4(10, 77, 0, 1)) {
		t.Errorf("the result is %v", res)
	}
	r.wantBound("10.77.0.5 first/net1/s1")
	r.must("CHECK", func() error { return r.cni.CheckNetworkList(t.Context(), list, one) })

	r.node.Do(func() {
		if _, err := r.cni.AddNetworkList(t.Context(), list, two); err == nil || !strings.Contains(err.Error(), "dhcp") {
			t.Errorf("an address that the server has not: %v, want dhcp's refusal", err)
		}
	})
	r.must("DEL", func() error { return r.cni.DelNetworkList(t.Context(), list, two) })
	r.must("DEL", func() error { return r.cni.DelNetworkList(t.Context(), list, one) })
	if l, err := r.leases.Get(t.Context(), r.name+".10.77.0.5", metav1.GetOptions{}); err != nil || l.Spec.Phase != v1alpha1.LeaseReleased {
		t.Errorf("after DEL: %v, %v", l, err)
	}
	if !strings.Contains(said(), "s1/"+r.name+"/net1: releasing lease") {
		t.Error("the daemon has not released the lease at the server")
	}
}
