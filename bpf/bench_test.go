package bpf

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/tests/netns"
)

// BenchmarkSteer times the programs in the kernel, without the system call. What the empty program takes is the price of
// being called by the test run; what one look-up takes besides is the least that a program costs which finds something by a packet's address.
// Of the latter, returns are the most where CPUs are kept from predicting them (Safe RET), as a look-up calls four functions of the kernel.
func BenchmarkSteer(b *testing.B) {
	bench, unseated := newBench(b, knownEndpoints, knownPrefixes), newBench(b, knownEndpoints, knownPrefixes)
	if err := bench.Seat(); err != nil {
		b.Fatal(err)
	}
	steer, guard := bench.programPrograms.Steer, bench.programPrograms.Guard
	empty := emptyProgram(b)
	for _, bb := range []struct {
		name    string
		program *ebpf.Program
		packet  []byte
		once    bool // the answer replaces the question, so that a repetition would see the answer
	}{
		{name: "empty", program: empty, packet: service4},
		{name: "lookup", program: lookupProgram(b), packet: service4},
		{name: "steered_ipv4", program: steer, packet: service4},
		{name: "steered_ipv6", program: steer, packet: service6},
		{name: "unseated/steered_ipv4", program: unseated.programPrograms.Steer, packet: service4},
		{name: "unseated/steered_ipv6", program: unseated.programPrograms.Steer, packet: service6},
		{name: "drop_spoofed_mac", program: steer, packet: ipv4(vmac, alien, "10.1.0.11", "10.96.0.1")},
		{name: "drop_arp_other", program: steer, packet: whoHas(pod1, "10.1.0.11", "10.1.0.12")},
		{name: "guard/pass_ipv4", program: guard, packet: service4},
		{name: "guard/pass_ipv6", program: guard, packet: service6},
		{name: "guard/guard_arp", program: guard, packet: gateway4},
		{name: "once/empty", program: empty, packet: gateway4, once: true},
		{name: "once/arp_answered", program: steer, packet: gateway4, once: true},
		{name: "once/nd_answered", program: steer, packet: gateway6, once: true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			total, runs := time.Duration(0), 0
			for runs < b.N {
				repeat := min(b.N-runs, 1_000_000)
				if bb.once {
					repeat = 1
				}
				_, each, err := bb.program.Benchmark(bb.packet, repeat, nil)
				if err != nil {
					b.Fatal(err)
				}
				total += each * time.Duration(repeat)
				runs += repeat
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(runs), "ns/op")
		})
	}
}

// emptyProgram lets all pass.
func emptyProgram(b *testing.B) *ebpf.Program { return testProgram(b) }

// testProgram does that, and lets all pass.
func testProgram(b *testing.B, does ...asm.Instruction) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: append(does, asm.Mov.Imm(asm.R0, -1), asm.Return()),
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// lookupProgram looks one key up in a hash map of the kind of endpoints, and lets all pass.
func lookupProgram(b *testing.B) *ebpf.Program {
	b.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { m.Close() })
	if err := m.Put(make([]byte, 16), make([]byte, 8)); err != nil {
		b.Fatal(err)
	}
	return testProgram(b, asm.Mov.Imm(asm.R3, 0),
		asm.StoreMem(asm.RFP, -8, asm.R3, asm.DWord), asm.StoreMem(asm.RFP, -16, asm.R3, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -16),
		asm.LoadMapPtr(asm.R1, m.FD()), asm.FnMapLookupElem.Call())
}

// BenchmarkSource times the source guard the same way, with the entry of one interface, as at its egress.
func BenchmarkSource(b *testing.B) {
	bench, unseated := newSourceBench(b), newSourceBench(b)
	if err := bench.Seat(); err != nil {
		b.Fatal(err)
	}
	empty := emptyProgram(b)
	for _, bb := range []struct {
		name    string
		program *ebpf.Program
		packet  []byte
	}{
		{"empty", empty, service4},
		{"ipv4", bench.entries[here], service4},
		{"ipv6", bench.entries[here], service6},
		{"unseated/ipv4", unseated.entries[here], service4},
		{"unseated/ipv6", unseated.entries[here], service6},
		{"ipv4 of a prefix", bench.entries[neighbour], ipv4(alien, pod2, "10.9.0.1", "8.8.8.8")},
		{"ipv6 of a prefix", bench.entries[neighbour], ipv6(alien, pod2, "2001:db8:9::1", "2001:4860::1", 17, 64)},
		{"arp", bench.entries[here], whoHas(pod1, "10.1.0.11", "10.1.0.1")},
		{"solicitation", bench.entries[here], solicit(pod1, "2001:db8:1::11", "2001:db8:1::1", sourceOption(pod1))},
		{"source_ipv4", bench.entries[here], ipv4(alien, pod1, "10.1.0.12", "8.8.8.8")},
	} {
		b.Run(bb.name, func(b *testing.B) {
			total, runs := time.Duration(0), 0
			for runs < b.N {
				repeat := min(b.N-runs, 1_000_000)
				_, each, err := bb.program.Benchmark(bb.packet, repeat, nil)
				if err != nil {
					b.Fatal(err)
				}
				total += each * time.Duration(repeat)
				runs += repeat
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(runs), "ns/op")
		})
	}
}

// BenchmarkGuard is what an ADD waits for: the entry of an interface, and its attachment by clsact.
func BenchmarkGuard(b *testing.B) {
	node := netns.New(b)
	g, err := OpenSourceGuard(filepath.Join(mountBPF(b), "berth"), false)
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	node.Do(func() {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic"}, PeerName: "peer"}); err != nil {
			b.Fatal(err)
		}
		nic, err := netlink.LinkByName("nic")
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			b.StopTimer()
			pod := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "pod", ParentIndex: nic.Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE}
			if err := netlink.LinkAdd(pod); err != nil {
				b.Fatal(err)
			}
			at := Place{1, pod.Index}
			b.StartTimer()
			if err := errors.Join(g.Put(at, hereSource), g.Guard(at)); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := errors.Join(g.Forget(at), netlink.LinkDel(pod)); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}
