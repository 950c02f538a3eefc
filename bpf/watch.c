//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What goes by a link while somebody watches: a filter of a packet socket of theirs, which takes nothing itself. It goes with the socket.

#include "watch.h"

enum {
	PACKET_OUTGOING = 4,
};

char _license[] SEC("license") = "Dual BSD/GPL";

// Of the pod's interface, or of vmac: enum sight_of of what is sent and what is received there.
const volatile __u32 sends SEC(".rodata");
const volatile __u32 receives SEC(".rodata");

SEC("socket")
int watch(struct __sk_buff *skb)
{
	show(skb, (skb->pkt_type == PACKET_OUTGOING ? sends : receives) << 8, 0);
	return 0;
}
