package main

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// fake serves what it holds, with the server's selectors.
type fake struct {
	p   []v1alpha1.IPPool
	l   []v1alpha1.IPLease
	s   []v1alpha1.Subnet
	b   []v1alpha1.IPBlock
	err error
}

func (f *fake) subnets(context.Context) ([]v1alpha1.Subnet, error) { return f.s, f.err }

func (f *fake) block(_ context.Context, name string) (*v1alpha1.IPBlock, error) {
	for i := range f.b {
		if f.b[i].Name == name {
			return &f.b[i], f.err
		}
	}
	return nil, f.err
}

func (f *fake) pools(context.Context) ([]v1alpha1.IPPool, error) { return f.p, f.err }

func (f *fake) leases(_ context.Context, o metav1.ListOptions) ([]v1alpha1.IPLease, error) {
	bylabel, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return nil, err
	}
	byField, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return nil, err
	}
	var out []v1alpha1.IPLease
	for _, l := range f.l {
		if bylabel.Matches(labels.Set(l.Labels)) && byField.Matches(fields.Set{"spec.address": l.Spec.Address}) {
			out = append(out, l)
		}
	}
	return out, f.err
}

func newPool(name, network string, conditions ...metav1.Condition) v1alpha1.IPPool {
	p := v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Network = network
	p.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.6.0.0/24"}}
	p.Status.IPv4 = &v1alpha1.AddressCount{Total: "254", Free: "250", Bound: 3, Reserved: 1}
	p.Status.Conditions = conditions
	return p
}

func newLease(t *testing.T, network, address string, holder v1alpha1.LeaseHolder) v1alpha1.IPLease {
	t.Helper()
	p, err := ipam.Compile(&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "zone-a"}, Spec: v1alpha1.IPPoolSpec{
		Network: network, Subnets: []v1alpha1.PoolSubnet{{CIDR: "10.6.0.0/16"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return *ipam.NewLease(p, netip.MustParseAddr(address), ipam.Claimant{Holder: holder}, now.Add(-90*time.Minute))
}

func world(t *testing.T) *fake {
	web := v1alpha1.LeaseHolder{Namespace: "shop", Pod: "web-0", UID: "u-1", Interface: "net1", Node: "node-a", MAC: "02:00:00:00:00:01", ContainerID: "c1"}
	db := v1alpha1.LeaseHolder{Namespace: "data", Pod: "db-0", UID: "u-2", Interface: "net1", Node: "node-b"}
	released := newLease(t, "vlan910", "10.6.0.9", db)
	ipam.Release(&released, released.Spec.Holder, now.Add(-time.Minute))
	reserved := v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Time{Time: now.Add(-48 * time.Hour)}}}
	reserved.Spec = v1alpha1.IPLeaseSpec{Network: "vlan911", Address: "10.6.0.10", Phase: v1alpha1.LeaseReserved}

	full := newPool("zone-b", "vlan910",
		metav1.Condition{Type: v1alpha1.PoolReady, Status: metav1.ConditionFalse, Reason: "NoFreeAddress"},
		metav1.Condition{Type: v1alpha1.PoolOverlapping, Status: metav1.ConditionTrue})
	full.Status.IPv6 = &v1alpha1.AddressCount{Total: "18446744073709551615", Free: "18446744073709551615"}
	fresh := newPool("fresh", "vlan911")
	fresh.Status = v1alpha1.IPPoolStatus{}
	fresh.Spec.Owner, fresh.Spec.Netspace, fresh.Spec.VLAN = &v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}, "team-a", new(int32)
	*fresh.Spec.VLAN = 911
	ready := newPool("zone-a", "vlan910", metav1.Condition{Type: v1alpha1.PoolReady, Status: metav1.ConditionTrue})
	ready.Spec.Default = true
	office := v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: "office"}}
	office.Spec = v1alpha1.SubnetSpec{Network: "vlan912", VLAN: new(int32(912)), CIDRs: []v1alpha1.SubnetCIDR{{CIDR: "10.8.0.0/16", Gateway: "10.8.0.1"}}}
	office.Status.IPv4, office.Status.Pools = &v1alpha1.SubnetCount{Total: "65533", Free: "65523", Carved: "5", Returning: "5"}, 1
	office.Status.Conditions = []metav1.Condition{{Type: v1alpha1.SubnetReady, Status: metav1.ConditionTrue}}
	young := v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: "young"}}
	young.Spec = v1alpha1.SubnetSpec{Network: "vlan912", Netspace: "red", CIDRs: []v1alpha1.SubnetCIDR{{CIDR: "10.9.0.0/16"}}}
	block := v1alpha1.IPBlock{ObjectMeta: metav1.ObjectMeta{Name: "vlan912.10.8.0.0"}}
	block.Spec = v1alpha1.IPBlockSpec{Network: "vlan912", First: "10.8.0.0", Parts: []v1alpha1.IPBlockPart{
		{IPs: "10.8.0.2-10.8.0.6", Subnet: "office", Pool: "orders"},
		{IPs: "10.8.0.7-10.8.0.11", Subnet: "office", Pool: "quotes", ReturnedAt: &metav1.Time{Time: now}},
	}}
	return &fake{
		s: []v1alpha1.Subnet{young, office}, b: []v1alpha1.IPBlock{block},
		p: []v1alpha1.IPPool{full, fresh, ready},
		l: []v1alpha1.IPLease{newLease(t, "vlan910", "10.6.0.100", web), released, reserved, newLease(t, "vlan911", "10.6.0.100", db)},
	}
}

func TestCommands(t *testing.T) {
	for _, tc := range []struct{ args, want, err string }{
		{args: "pools", want: `
NETWORK   POOL     FAMILY   FREE                   TOTAL                  BOUND   RESERVED   QUARANTINED   STATE
vlan910   zone-a   IPv4     250                    254                    3       1          0             Ready,default
vlan910   zone-b   IPv4     250                    254                    3       1          0             NoFreeAddress,Overlapping
vlan910   zone-b   IPv6     18446744073709551615   18446744073709551615   0       0          0             NoFreeAddress,Overlapping
vlan911   fresh    -        -                      -                      -       -          -             Unknown (no berth-controller has seen it),Deployment:shop/web,netspace:team-a,vlan:911
`},
		{args: "pools zone-a", want: `
NETWORK   POOL     FAMILY   FREE   TOTAL   BOUND   RESERVED   QUARANTINED   STATE
vlan910   zone-a   IPv4     250    254     3       1          0             Ready,default
`},
		{args: "pools zone-z", err: `there is no pool "zone-z"`},
		{args: "subnets", want: `
NETWORK   SUBNET   VLAN   FAMILY   FREE    TOTAL   CARVED   RETURNING   POOLS   STATE
vlan912   office   912    IPv4     65523   65533   5        5           1       Ready
vlan912   young    -      -        -       -       -        -           -       Unknown (no berth-controller has seen it),netspace:red
`},
		{args: "subnets office", want: `
NETWORK   SUBNET   VLAN   FAMILY   FREE    TOTAL   CARVED   RETURNING   POOLS   STATE
vlan912   office   912    IPv4     65523   65533   5        5           1       Ready
`},
		{args: "subnets none", err: `there is no Subnet "none"`},
		{args: "who 10.8.0.1", want: "\n10.8.0.1 in network vlan912: never carved from Subnet office: it is reserved, or a router's, or none of a host\n"},
		{args: "who 10.8.0.3", want: "\n10.8.0.3 in network vlan912: carved from Subnet office for pool \"orders\"\n"},
		{args: "who 10.8.0.7", want: "\n10.8.0.7 in network vlan912: returning to Subnet office; pool \"quotes\" gave it up at 2026-11-20T12:00:00Z\n"},
		{args: "who 10.8.1.7", want: "\n10.8.1.7 in network vlan912: free, in Subnet office; no pool has it\n"},
		{args: "leases", want: `
NETWORK   ADDRESS      POOL     PHASE      POD          INTERFACE   NODE     IDENTITY   CONFLICT   SINCE
vlan910   10.6.0.9     zone-a   Released   data/db-0    net1        node-b   -          -          60s
vlan910   10.6.0.100   zone-a   Bound      shop/web-0   net1        node-a   -          -          90m
vlan911   10.6.0.10    -        Reserved   -            -           -        -          -          2d
vlan911   10.6.0.100   zone-a   Bound      data/db-0    net1        node-b   -          -          90m
`},
		{args: "leases --node node-a", want: `
NETWORK   ADDRESS      POOL     PHASE   POD          INTERFACE   NODE     IDENTITY   CONFLICT   SINCE
vlan910   10.6.0.100   zone-a   Bound   shop/web-0   net1        node-a   -          -          90m
`},
		{args: "leases -n data --phase released --pool zone-a --network vlan910", want: `
NETWORK   ADDRESS    POOL     PHASE      POD         INTERFACE   NODE     IDENTITY   CONFLICT   SINCE
vlan910   10.6.0.9   zone-a   Released   data/db-0   net1        node-b   -          -          60s
`},
		{args: "leases --pool none", want: "\nNo leases.\n"},
		{args: "leases --phase free", err: `--phase "free" is none of Bound, Reserved, Released, Quarantined`},
		{args: "leases --pool zone-a,zone-b", err: `--pool "zone-a,zone-b" is no name`},
		{args: "leases --node node_a", err: `--node "node_a" is no name`},
		{args: "leases -n Data", err: `--namespace "Data" is no name`},
		{args: "leases --network vlan910,vlan911", err: `--network "vlan910,vlan911" is no name`},
		{args: "who 10.6.0.100 --network vlan910", want: `
10.6.0.100 in network vlan910: Bound for 90m
  pool         zone-a
  pod          shop/web-0
  pod UID      u-1
  interface    net1
  MAC          02:00:00:00:00:01
  node         node-a
  container    c1
  bound at     2026-11-20T10:30:00Z
`},
		{args: "who ::ffff:10.6.0.9", want: `
10.6.0.9 in network vlan910: Released for 60s
  pool         zone-a
  last pod     data/db-0
  pod UID      u-2
  interface    net1
  node         node-b
  bound at     2026-11-20T10:30:00Z
  released at  2026-11-20T11:59:00Z
`},
		{args: "who 10.6.0.10", want: "\n10.6.0.10 in network vlan911: Reserved for 2d\n"},
		{args: "who 10.6.0.77 --network vlan911", want: "\n10.6.0.77 in network vlan911: free, in pool fresh; nobody is known to have held it\n"},
		{args: "who 192.0.2.1", want: "\n192.0.2.1: no lease, and no pool has it\n"},
		{args: "who web-0", err: `"web-0" is not an address`},
		{args: "who", err: "accepts 1 arg(s), received 0; usage: kubectl berth who ADDRESS"},
		{args: "leases zone-a", err: "usage: kubectl berth leases"},
		{args: "version", want: "\ndev\n"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var out bytes.Buffer
			w := world(t)
			cmd := command(&env{out: &out, now: func() time.Time { return now }, connect: func() (reader, error) { return w, nil }})
			cmd.SetArgs(strings.Fields(tc.args))
			err := cmd.ExecuteContext(t.Context())
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, "\n"+out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhoNamesEachNetwork(t *testing.T) {
	var out bytes.Buffer
	w := world(t)
	cmd := command(&env{out: &out, now: func() time.Time { return now }, connect: func() (reader, error) { return w, nil }})
	cmd.SetArgs([]string{"who", "10.6.0.100"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"in network vlan910: Bound", "in network vlan911: Bound"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s\nlacks %q", out.String(), want)
		}
	}
}

func TestNoPools(t *testing.T) {
	var out bytes.Buffer
	cmd := command(&env{out: &out, now: time.Now, connect: func() (reader, error) { return &fake{}, nil }})
	cmd.SetArgs([]string{"pools"})
	if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "There are no pools") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestErrorsReachThePerson(t *testing.T) {
	broken := errors.New("connection refused")
	for _, e := range []func() (reader, error){
		func() (reader, error) { return nil, broken },
		func() (reader, error) { return &fake{err: broken}, nil },
	} {
		for _, args := range []string{"pools", "leases", "who 10.6.0.1"} {
			cmd := command(&env{out: &bytes.Buffer{}, now: time.Now, connect: e})
			cmd.SetArgs(strings.Fields(args))
			if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, broken) {
				t.Errorf("%s: %v", args, err)
			}
		}
	}
}

func TestHint(t *testing.T) {
	resource := schema.GroupResource{Group: "berth.dev", Resource: "ippools"}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{apierrors.NewNotFound(resource, ""), "deploy/install.yaml"},
		{apierrors.NewForbidden(resource, "", errors.New("no")), "berth-view"},
		{errors.New("timeout"), "timeout"},
	} {
		if got := hint(tc.err); !strings.Contains(got.Error(), tc.want) || !errors.Is(got, tc.err) {
			t.Errorf("got %v, want it to name %q", got, tc.want)
		}
	}
}

// A machine that migrates has two pods; an identity outlives its pod; somebody else answers.
func TestLeasesSayWhatIsSpecial(t *testing.T) {
	launcher := v1alpha1.LeaseHolder{Namespace: "vms", Pod: "a", UID: "u-a", Interface: "net1", Node: "node-a"}
	migrating := newLease(t, "net", "10.6.0.1", launcher)
	launcher.Pod, launcher.Node = "b", "node-b"
	migrating.Spec.Next = &launcher
	migrating.Spec.Identity = &v1alpha1.LeaseIdentity{Kind: "VirtualMachineInstance", Namespace: "vms", Name: "m"}
	kept := newLease(t, "net", "10.6.0.2", v1alpha1.LeaseHolder{Namespace: "shop", Pod: "web-0", Node: "node-a"})
	kept.Spec.Identity = &v1alpha1.LeaseIdentity{Kind: "StatefulSet", Namespace: "shop", Name: "web", Pod: "web-0"}
	ipam.Release(&kept, kept.Spec.Holder, now.Add(-time.Minute))
	other := v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Network: "net", Address: "10.6.0.3", Phase: v1alpha1.LeaseQuarantined,
		Conflict: &v1alpha1.LeaseConflict{MAC: "02:00:00:00:00:09", SeenAt: metav1.NewTime(now)}}}
	again := newLease(t, "net", "10.6.0.4", v1alpha1.LeaseHolder{Namespace: "shop", Pod: "gone", Node: "node-a"})
	again.CreationTimestamp = metav1.NewTime(now.Add(-240 * time.Hour))
	ipam.Release(&again, again.Spec.Holder, now.Add(-time.Hour))
	ipam.Quarantine(&again, nil, netip.MustParseAddr("10.6.0.4"), v1alpha1.LeaseConflict{MAC: "02:00:00:00:00:09", SeenAt: metav1.NewTime(now)})
	w := &fake{l: []v1alpha1.IPLease{migrating, kept, other, again}}
	for args, want := range map[string][]string{
		"leases":               {"vms/a,vms/b", "node-a,node-b", "VirtualMachineInstance vms/m", "StatefulSet shop/web-0", "60s", "02:00:00:00:00:09"},
		"leases --node node-b": {"vms/a,vms/b"}, // where it migrates to
		"who 10.6.0.1":         {"next pod     vms/b on node node-b", "identity     VirtualMachineInstance vms/m"},
		"who 10.6.0.2":         {"last pod     shop/web-0", "identity     StatefulSet shop/web-0"},
		"who 10.6.0.4":         {"10.6.0.4 in network net: Quarantined\n"}, // since when, the lease does not say
		"who 10.6.0.3":         {"conflict     02:00:00:00:00:09 answered, last seen at 2026-11-20T12:00:00Z"},
	} {
		var out bytes.Buffer
		cmd := command(&env{out: &out, now: func() time.Time { return now }, connect: func() (reader, error) { return w, nil }})
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, part := range want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s:\n%s\nlacks %q", args, out.String(), part)
			}
		}
	}
}
