// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What each guarded interface may send as, and why frames were dropped.
#pragma once

#include "packet.h"
#include "seats.h"

// take copies a part of the frame that is to be judged. What is not in the linear part may be memory that the sender goes on to
// write, such as the ring of a packet socket, so it is pulled there first.
static inline long take(struct __sk_buff *skb, __u32 offset, void *to, __u32 len)
{
	return bpf_skb_pull_data(skb, offset + len) ?: bpf_skb_load_bytes(skb, offset, to, len);
}

// Names and meanings for people are in source_counters.go. Pinned counters go by position: see sourceLayout.
enum refusal {
	PERMITTED, // by one check of several; never counted
	SOURCE_MAC,
	SOURCE_IPV4,
	SOURCE_IPV6,
	SOURCE_ARP,
	SOURCE_ND,
	SOURCE_ROUTER,
	SOURCE_VLAN,
	SOURCE_NOT_IP,
	SOURCE_TRUNCATED,
	SOURCE_MALFORMED,
	SOURCE_UNKNOWN,
	REFUSALS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum refusal);
	__type(value, __u64);
	__uint(max_entries, REFUSALS);
} refusals SEC(".maps");

// An interface for ever: a namespace's cookie is given once, an index once in the life of an interface. The programs of
// source_entry.go leave it in skb->cb, the index last.
struct place {
	__u64 cookie;
	__u32 ifindex;
	__u32 pad; // zero
};

enum {
	DHCP = 1,    // an address of it comes by DHCP
	FURTHER = 2, // there is more in the map further
	// and SEATED
};

// What an interface may send as. Addresses that are not set are zero, which nobody may send as.
struct identity {
	__u16 mac[3];
	__u16 flags;
	__be32 ipv4[2];
	struct address ipv6[2];
};

struct known_identity {
	struct identity identity;
	__u64 refused; // frames
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct place);
	__type(value, struct known_identity);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} identities SEC(".maps");

struct seat {
	struct place at;
	struct identity identity;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct seat);
	__uint(max_entries, SEATS);
} seats SEC(".maps");

static inline const struct identity *seated(const struct place *at)
{
	__u32 n = first_seat(at->ifindex, at->cookie);

	for (int i = 0; i < 2; i++, n ^= 1) {
		const struct seat *s = bpf_map_lookup_elem(&seats, &n);

		if (s && s->identity.flags & SEATED && s->at.cookie == at->cookie && s->at.ifindex == at->ifindex)
			return &s->identity;
	}
	return 0;
}

struct further_key {
	__u32 len;
	__u32 ifindex;
	__u64 cookie;
	struct address address;
};

enum {
	PLACE_BITS = 96, // of a further_key, before the address
};

// Addresses beyond those, and prefixes.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct further_key);
	__type(value, __u32); // as len in the key
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} further SEC(".maps");

// A function of its own, so that the code of the others stays small.
static __attribute__((noinline)) int has_further(const struct place *at, const struct address *address)
{
	struct further_key key = {PLACE_BITS + 128, at->ifindex, at->cookie, *address};
	__u32 *len = bpf_map_lookup_elem(&further, &key);

	// IPv4 lives under ::ffff:0:0/96, of which a shorter prefix, say ::/0, says nothing.
	return len && !(is_low(address) && *len < PLACE_BITS + 96);
}

static inline int has_ipv4(const struct place *at, const struct identity *i, __be32 ipv4)
{
	if (ipv4 && (ipv4 == i->ipv4[0] || ipv4 == i->ipv4[1]))
		return 1;
	if (ipv4 && i->flags & FURTHER) {
		struct address address = mapped(ipv4);

		return has_further(at, &address);
	}
	return 0;
}

static inline int has_ipv6(const struct place *at, const struct identity *i, const struct address *ipv6)
{
	if (is_low(ipv6))
		return 0;
	if (same_address(ipv6, &i->ipv6[0]) || same_address(ipv6, &i->ipv6[1]))
		return 1;
	return i->flags & FURTHER ? has_further(at, ipv6) : 0;
}

// may_be: of the interface's own addresses, or link-local, which no lease knows. The service gateway is no pod's.
static inline int may_be(const struct place *at, const struct identity *i, const struct address *ipv6)
{
	const struct address gateway = {{bpf_htonl(0xfe800000), 0, 0, bpf_htonl(1)}};

	if (is_link_local(ipv6))
		return !same_address(ipv6, &gateway);
	return has_ipv6(at, i, ipv6);
}
