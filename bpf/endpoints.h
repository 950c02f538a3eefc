// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Who may send: the addresses of this node's pods, and the MACs they may be used with.
#pragma once

#include "counters.h"
#include "packet.h"
#include "seats.h"

struct endpoint {
	__u16 mac[3];
	__u16 flags; // SEATED
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address);
	__type(value, struct endpoint);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} endpoints SEC(".maps");

struct seat {
	struct address address;
	struct endpoint endpoint;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct seat);
	__uint(max_entries, SEATS);
} seats SEC(".maps");

// The MACs of the endpoints, for neighbour solicitations from link-local addresses, which no lease knows.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct mac);
	__type(value, __u32);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} macs SEC(".maps");

static inline const struct endpoint *endpoint_of(const struct address *a)
{
	__u32 n = first_seat((__u64)a->word[0] << 32 | a->word[1], (__u64)a->word[2] << 32 | a->word[3]);

	for (int i = 0; i < 2; i++, n ^= 1) {
		const struct seat *s = bpf_map_lookup_elem(&seats, &n);

		if (s && s->endpoint.flags & SEATED && same_address(&s->address, a))
			return &s->endpoint;
	}
	return bpf_map_lookup_elem(&endpoints, a);
}

// sender permits a frame whose source is the endpoint with the address src.
static inline enum reason sender(const struct ethernet *eth, const struct address *src, enum reason unknown)
{
	const struct endpoint *e = endpoint_of(src);

	if (!e)
		return unknown;
	if (!same_mac(eth->src, e->mac))
		return DROP_SPOOFED_MAC;
	return PERMITTED;
}
