// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Who may send: the addresses of this node's pods, and the MACs they may be used with.
#pragma once

#include "counters.h"
#include "packet.h"

struct endpoint {
	__u16 mac[3];
	__u16 flags; // none yet
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address);
	__type(value, struct endpoint);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} endpoints SEC(".maps");

// The MACs of the endpoints, for neighbour solicitations from link-local addresses, which no lease knows.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct mac);
	__type(value, __u32);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} macs SEC(".maps");

// sender permits a frame whose source is the endpoint with the address src.
static inline enum reason sender(const struct ethernet *eth, const struct address *src, enum reason unknown)
{
	struct endpoint *e = bpf_map_lookup_elem(&endpoints, src);

	if (!e)
		return unknown;
	if (!same_mac(eth->src, e->mac))
		return DROP_SPOOFED_MAC;
	return PERMITTED;
}
