package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// BenchmarkSteer times the programs in the kernel, without the system call. What the empty program takes is the price of
// being called by the test run.
func BenchmarkSteer(b *testing.B) {
	bench := newBench(b, knownEndpoints, knownPrefixes)
	steer, guard := bench.programPrograms.Steer, bench.programPrograms.Guard
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		b.Fatal(err)
	}
	defer empty.Close()

	for _, bb := range []struct {
		name    string
		program *ebpf.Program
		packet  []byte
		once    bool // the answer replaces the question, so that a repetition would see the answer
	}{
		{name: "empty", program: empty, packet: service4},
		{name: "steered_ipv4", program: steer, packet: service4},
		{name: "steered_ipv6", program: steer, packet: service6},
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
