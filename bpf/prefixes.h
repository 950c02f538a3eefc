// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Where steered packets may go.
#pragma once

#include "packet.h"

enum {
	CLASS_NODE = 3, // ClassNode in bpf.go, the only class that the programs tell from the others
};

struct prefix_key {
	__u32 len;
	struct address address;
};

struct prefix {
	__u16 class;
	__u16 len; // as in the key
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix_key);
	__type(value, struct prefix);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} prefixes SEC(".maps");

// steered returns the longest prefix around the address, or null. IPv4 lives under ::ffff:0:0/96, so a shorter prefix,
// say ::/0, says nothing about it.
static inline struct prefix *steered(const struct address *address)
{
	struct prefix_key key = {.len = 128, .address = *address};
	struct prefix *p = bpf_map_lookup_elem(&prefixes, &key);

	if (p && is_low(address) && p->len < 96)
		return 0;
	return p;
}

// is_node_address: steer speaks for single addresses of the node, never for the network around them.
static inline int is_node_address(const struct address *address)
{
	struct prefix *p = steered(address);

	return p && p->class == CLASS_NODE && p->len == 128;
}
