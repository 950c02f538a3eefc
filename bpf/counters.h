// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Why each packet went where it went.
#pragma once

#include "abi.h"

// Names and meanings for people are in counters.go. Pinned counters go by position: see layout in attach.go.
enum reason {
	PERMITTED, // by one check of several; never counted
	STEERED_IPV4,
	STEERED_IPV6,
	ARP_ANSWERED,
	ND_ANSWERED,
	DROP_ARP_OTHER,
	DROP_ARP_PROBE,
	DROP_ARP_STRANGER,
	DROP_ND_OTHER,
	DROP_ND_DAD,
	DROP_ND_STRANGER,
	DROP_SPOOFED_ADDRESS,
	DROP_SPOOFED_MAC,
	DROP_NOT_STEERED,
	DROP_LINK_LOCAL,
	DROP_MULTICAST,
	DROP_WRONG_MAC,
	DROP_VLAN,
	DROP_NOT_IP,
	DROP_TRUNCATED,
	DROP_MALFORMED,
	DROP_WRITE_FAILED,
	GUARD_ARP,
	GUARD_ND,
	REASONS,
};

struct count {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum reason);
	__type(value, struct count);
	__uint(max_entries, REASONS);
} counters SEC(".maps");

static inline void count(struct __sk_buff *skb, enum reason reason)
{
	struct count *c = bpf_map_lookup_elem(&counters, &reason);

	if (c) {
		c->packets++;
		c->bytes += skb->len;
	}
}
