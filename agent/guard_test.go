package agent

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/agent/guards"
	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

var compareIPs = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func TestGuarding(t *testing.T) {
	pool := func(name string, mode v1alpha1.SourceGuard) *ipam.Pool { return &ipam.Pool{Name: name, Guard: mode} }
	enabled, disabled, required := pool("e", v1alpha1.SourceGuardEnabled), pool("d", v1alpha1.SourceGuardDisabled), pool("r", v1alpha1.SourceGuardRequired)
	dhcp := pool("office", v1alpha1.SourceGuardEnabled)
	dhcp.Delegate = &v1alpha1.Delegate{Type: "dhcp"}
	hostLocal := pool("local", v1alpha1.SourceGuardEnabled)
	hostLocal.Delegate = &v1alpha1.Delegate{Type: "host-local"}
	said := func(mode string) nad.Ask { return nad.Ask{SourceGuard: mode, GuardSource: "pod annotation x"} }
	allowed := []netip.Prefix{netip.MustParsePrefix("10.6.0.100/32")}
	tests := []struct {
		name  string
		ask   nad.Ask
		pools []*ipam.Pool
		other bool // no macvlan in bridge mode, or no service path
		want  journal.Guard
		err   string
	}{
		{name: "nothing said", pools: []*ipam.Pool{enabled}, want: journal.Guard{On: true}},
		{name: "no pool", want: journal.Guard{On: true}},
		{name: "of an earlier version", pools: []*ipam.Pool{{}}, want: journal.Guard{On: true}},
		{name: "the pod opts out", ask: said("Disabled"), pools: []*ipam.Pool{enabled}},
		{name: "the pod opts in", ask: said("Enabled"), pools: []*ipam.Pool{disabled}, want: journal.Guard{On: true}},
		{name: "the pool opts out", pools: []*ipam.Pool{disabled}},
		{name: "the first pool decides", pools: []*ipam.Pool{disabled, enabled}},
		{name: "the first pool decides, the other way", pools: []*ipam.Pool{enabled, disabled}, want: journal.Guard{On: true}},
		{name: "allowed", ask: nad.Ask{Allowed: allowed}, pools: []*ipam.Pool{enabled}, want: journal.Guard{On: true, Allowed: allowed}},
		{name: "required", pools: []*ipam.Pool{required}, want: journal.Guard{On: true, Required: true}},
		{name: "required, and asked for", ask: said("Enabled"), pools: []*ipam.Pool{required}, want: journal.Guard{On: true, Required: true}},
		{name: "required by the second", pools: []*ipam.Pool{enabled, required}, want: journal.Guard{On: true, Required: true}},
		{name: "required by the second, the first opts out", pools: []*ipam.Pool{disabled, required}, want: journal.Guard{On: true, Required: true}},
		{name: "required, the pod opts out", ask: said("Disabled"), pools: []*ipam.Pool{enabled, required},
			err: `pod annotation x is Disabled, but pool "r" has sourceGuard Required; remove it, or use another pool`},
		{name: "required, the pod allows more", ask: nad.Ask{Allowed: allowed}, pools: []*ipam.Pool{required},
			err: `pod annotation berth.dev/allowed-addresses: pool "r" has sourceGuard Required, which allows leased addresses only`},
		{name: "required, of another kind", pools: []*ipam.Pool{required}, other: true, err: "only interfaces of macvlan in bridge mode are guarded"},
		{name: "of another kind", pools: []*ipam.Pool{enabled}, other: true},
		{name: "DHCP", pools: []*ipam.Pool{enabled, dhcp}, want: journal.Guard{On: true, DHCP: true}},
		{name: "another delegate", pools: []*ipam.Pool{hostLocal}, want: journal.Guard{On: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := guarding(tt.ask, tt.pools, !tt.other)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !errors.As(err, new(badRequest)) {
					t.Errorf("%v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, got, compareIPs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGuarded(t *testing.T) {
	h := v1alpha1.LeaseHolder{ContainerID: "c1", Interface: "net1", Parent: "eth0", MAC: "02:00:00:00:01:01"}
	lease := func(a string) *v1alpha1.IPLease {
		return &v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Network: "n", Address: a}}
	}
	allowed := []netip.Prefix{netip.MustParsePrefix("10.6.0.100/32")}
	got := guarded(h, "/run/netns/x", &journal.Guard{On: true, Allowed: allowed, DHCP: true}, []*v1alpha1.IPLease{lease("10.6.1.7"), lease("fd00::7")})
	want := guards.Interface{ContainerID: "c1", Name: "net1", NetNS: "/run/netns/x", Parent: "eth0", Network: "n", MAC: net.HardwareAddr{2, 0, 0, 0, 1, 1},
		Addresses: []netip.Addr{netip.MustParseAddr("10.6.1.7"), netip.MustParseAddr("fd00::7")}, Guarded: true, Allowed: allowed, DHCP: true}
	if diff := cmp.Diff(want, got, compareIPs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
