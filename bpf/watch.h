// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Shows a pod's packets and drops to who watches it (watch.go). The maps are one set for all programs of the node. The programs that
// judge packets look here only when they drop one, so nobody's way is longer for it; what passes is seen by the program of watch.c, which
// is there while somebody watches.
#pragma once

#include "packet.h"

enum {
	WATCH_SECOND = 1000 * 1000 * 1000, // in ns
	WATCH_TCP = 6,
	WATCH_UDP = 17,
	WATCH_SCTP = 132,
};

// Where a packet was seen. Names for people are in watch.go.
enum sight_of {
	POD_SENDS,
	POD_RECEIVES,
	NODE_RECEIVES, // at vmac
	NODE_SENDS,
	STEER_DROPS,
	GUARD_DROPS,
	SOURCE_DROPS,
};

// What is watched. until is extended by who watches; after it nothing is told, and the first program to find that out ends it.
struct watching {
	__u64 until;  // bpf_ktime_get_ns; 0: nobody watches
	__u64 cookie; // of the pod's network namespace; 0: not known
	__u64 since;  // begin of the second that spent is of
	__u64 told, over_budget, buffer_full;
	__u32 spent, budget; // in a second
	__u32 peers;	     // only what goes to or comes from one of them
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct watching);
	__uint(max_entries, 1);
} watching SEC(".maps");

enum watch_kind {
	WATCH_ADDRESS = 1, // of the pod
	WATCH_MAC,	   // of the pod, in the first six bytes of the address
	WATCH_PEER,	   // address, port and protocol
};

struct watch_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct watch_key);
	__type(value, __u32);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} watch_keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 17);
} packets SEC(".maps");

// A packet as user space is told of it. Fields that it does not have are 0.
struct seen_packet {
	__u64 time; // bpf_ktime_get_ns
	struct address src, dst;
	__u16 src_mac[3], dst_mac[3];
	__be16 protocol; // of the frame
	__be16 src_port, dst_port;
	__u8 upper;  // protocol
	__u8 detail; // flags of TCP, type of ICMP, operation of ARP
	__u8 at;     // enum sight_of
	__u8 reason; // by which program's counters
	__be16 fragment; // IPv4: as in the header
	__u32 len;   // of the frame
	__u32 pad;
};

_Static_assert(sizeof(struct seen_packet) == 72, "no padding in what is told");

static inline int watch_has(struct watch_key *key, const struct address *address, __be16 port, __u8 protocol, __u8 kind)
{
	key->address = *address;
	key->port = port;
	key->protocol = protocol;
	key->kind = kind;
	return !!bpf_map_lookup_elem(&watch_keys, key);
}

static inline int watch_has_mac(struct watch_key *key, const __u16 *mac)
{
	struct address a = {};

	copy_mac((__u16 *)&a, mac);
	return watch_has(key, &a, 0, 0, WATCH_MAC);
}

// dissect fills in what the headers say; what is missing or cut off is left out.
static inline void dissect(struct __sk_buff *skb, struct seen_packet *p)
{
	struct ethernet eth = {};
	__u32 upper = 0;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return;
	copy_mac(p->src_mac, eth.src);
	copy_mac(p->dst_mac, eth.dst);
	p->protocol = eth.protocol;
	if (eth.protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4 ip = {};

		if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)))
			return;
		p->src = mapped(ip.src);
		p->dst = mapped(ip.dst);
		p->upper = ip.protocol;
		p->fragment = ip.fragment & bpf_htons(0x3fff);
		if (!(ip.fragment & bpf_htons(0x1fff)))
			upper = ETH_LEN + (ip.version_ihl & 15) * 4;
	} else if (eth.protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6 ip = {};

		if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)))
			return;
		p->src = ip.src;
		p->dst = ip.dst;
		p->upper = ip.next_header;
		upper = ETH_LEN + sizeof(ip);
	} else if (eth.protocol == bpf_htons(ETH_P_ARP)) {
		struct arp arp = {};
		__be32 ipv4;

		if (bpf_skb_load_bytes(skb, ETH_LEN, &arp, sizeof(arp)))
			return;
		__builtin_memcpy(&ipv4, arp.sender, sizeof(ipv4));
		p->src = mapped(ipv4);
		__builtin_memcpy(&ipv4, arp.target, sizeof(ipv4));
		p->dst = mapped(ipv4);
		p->detail = bpf_htons(arp.operation);
	}
	if (!upper)
		return;
	if (p->upper == WATCH_TCP || p->upper == WATCH_UDP || p->upper == WATCH_SCTP) {
		__be16 ports[2] = {};

		if (bpf_skb_load_bytes(skb, upper, ports, sizeof(ports)))
			return;
		p->src_port = ports[0];
		p->dst_port = ports[1];
		if (p->upper == WATCH_TCP)
			bpf_skb_load_bytes(skb, upper + 13, &p->detail, 1);
	} else if (p->upper == 1 || p->upper == IPPROTO_ICMPV6) {
		bpf_skb_load_bytes(skb, upper, &p->detail, 1);
	}
}

// is_watched: of the pod, and with one of the peers if some are named. What has no ports (ARP, ND, ICMP, fragments but the first) is not
// told apart by peers.
static inline int is_watched(const struct watching *w, const struct seen_packet *p, int of_pod)
{
	struct watch_key key = {};

	if (!of_pod && !watch_has_mac(&key, p->src_mac) && !watch_has_mac(&key, p->dst_mac) &&
	    !watch_has(&key, &p->src, 0, 0, WATCH_ADDRESS) && !watch_has(&key, &p->dst, 0, 0, WATCH_ADDRESS))
		return 0;
	if (!w->peers || !p->src_port)
		return 1;
	return watch_has(&key, &p->dst, p->dst_port, p->upper, WATCH_PEER) || watch_has(&key, &p->src, p->src_port, p->upper, WATCH_PEER);
}

// A function of its own, so that the code of those that pass stays what it is without.
static __attribute__((noinline)) int show(struct __sk_buff *skb, __u32 at_and_reason, __u64 cookie)
{
	struct seen_packet p = {};
	struct watching *w;
	__u32 zero = 0;
	__u64 now;

	w = bpf_map_lookup_elem(&watching, &zero);
	if (!w || !w->until)
		return 0;
	now = bpf_ktime_get_ns();
	if (now > w->until) {
		w->until = 0;
		return 0;
	}
	p.time = now;
	p.at = at_and_reason >> 8;
	p.reason = at_and_reason;
	p.len = skb->len;
	dissect(skb, &p);
	if (!is_watched(w, &p, cookie && cookie == w->cookie))
		return 0;
	// CPUs do not wait for each other here, as in sightings.h.
	if (now - w->since >= WATCH_SECOND) {
		w->since = now;
		w->spent = 0;
	}
	if (w->spent >= w->budget) {
		w->over_budget++;
		return 0;
	}
	w->spent++;
	if (bpf_ringbuf_output(&packets, &p, sizeof(p), 0))
		w->buffer_full++;
	else
		w->told++;
	return 0;
}
