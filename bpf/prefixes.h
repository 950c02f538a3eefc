// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Where steered packets may go.
#pragma once

#include "packet.h"
#include "seats.h"

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

enum {
	ROW_IPV4 = 16, // as in row.go
	ROW_IPV6 = 8,
};

// The widest prefixes stand in a row in front of the trie, which goes from node to node, each somewhere else in memory. It is asked about
// what is in none of these. The row is the value of one key, with the seats 0 and 1.
struct row {
	__u64 key;
	__u64 flags; // SEATED
	struct {
		__be32 address, mask;
	} ipv4[ROW_IPV4];
	struct {
		__u64 address[2], mask[2];
	} ipv6[ROW_IPV6];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct row);
	__uint(max_entries, 2);
} rows SEC(".maps");

static inline const struct row *row_at(__u32 n)
{
	const struct row *r = bpf_map_lookup_elem(&rows, &n);

	return r && r->flags & SEATED ? r : 0;
}

static inline const struct row *row(void)
{
	const struct row *r = row_at(0);

	return r ?: row_at(1);
}

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

static inline int is_steered_ipv4(__be32 address)
{
	struct address in_trie = mapped(address);
	const struct row *r = row();

	if (r) {
#pragma unroll
		for (int i = 0; i < ROW_IPV4; i++)
			if (!((address ^ r->ipv4[i].address) & r->ipv4[i].mask))
				return 1;
	}
	return !!steered(&in_trie);
}

static inline int is_steered_ipv6(const struct address *a)
{
	const struct row *r = row();
	__u64 half[2];

	__builtin_memcpy(half, a, sizeof(half));
	if (r) {
#pragma unroll
		for (int i = 0; i < ROW_IPV6; i++)
			if (!(((half[0] ^ r->ipv6[i].address[0]) & r->ipv6[i].mask[0]) | ((half[1] ^ r->ipv6[i].address[1]) & r->ipv6[i].mask[1])))
				return 1;
	}
	return !!steered(a);
}

// is_node_address: steer speaks for single addresses of the node, never for the network around them.
static inline int is_node_address(const struct address *address)
{
	struct prefix *p = steered(address);

	return p && p->class == CLASS_NODE && p->len == 128;
}
