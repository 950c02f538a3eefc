// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The headers of a frame, and the way to them.
#pragma once

#include "abi.h"

// Fields wider than two bytes are declared so that each is aligned when the Ethernet header starts at 4n + 2
// (NET_IP_ALIGN): the compiler then loads them whole, and the verifier agrees on machines that insist on alignment.

struct ethernet {
	__u16 dst[3];
	__u16 src[3];
	__be16 protocol;
};

struct mac {
	__u16 word[3];
};

// An IPv4 address is held v4-mapped, ::ffff:a.b.c.d.
struct address {
	__be32 word[4];
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u16 sender_mac[3];
	__u16 sender[2];
	__u16 target_mac[3];
	__u16 target[2];
};

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_len;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__be32 src;
	__be32 dst;
};

struct ipv6 {
	__u8 version_class;
	__u8 class_flow[3];
	__be16 payload_len;
	__u8 next_header;
	__u8 hop_limit;
	struct address src;
	struct address dst;
};

// A neighbour solicitation or advertisement up to its options; the other ND messages share type and code.
struct nd {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 flags;
	struct address target;
};

enum {
	ETH_LEN = sizeof(struct ethernet),
	ETH_P_IP = 0x0800,
	ETH_P_ARP = 0x0806,
	ETH_P_8021Q = 0x8100,
	ETH_P_IPV6 = 0x86dd,
	ETH_P_8021AD = 0x88a8,
	ARPHRD_ETHER = 1,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
	IPPROTO_ICMPV6 = 58,
	ND_ROUTER_SOLICITATION = 133,
	ND_SOLICITATION = 135,
	ND_ADVERTISEMENT = 136,
	ND_REDIRECT = 137,
	ND_OPTION_TARGET = 2,
	ND_FLAG_ROUTER = 1u << 31,
	ND_FLAG_SOLICITED = 1u << 30,
	ND_FLAG_OVERRIDE = 1u << 29,
};

_Static_assert(sizeof(struct ethernet) == 14 && sizeof(struct arp) == 28, "wire layout");
_Static_assert(sizeof(struct ipv4) == 20 && sizeof(struct ipv6) == 40 && sizeof(struct nd) == 24, "wire layout");

// The verifier refuses a context pointer that was moved before it is read, and clang likes to move it when it merges
// the reads of data and data_end. Assembly is left alone.
#define context_pointer(skb, field)                                                 \
	({                                                                          \
		void *pointer;                                                      \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                               \
			     : "=r"(pointer)                                        \
			     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, field))); \
		pointer;                                                            \
	})

// frame returns the first len bytes, or null when the frame is shorter. It ends the use of what it returned before: a
// frame whose headers are not in the linear part (packet sockets and VMs send such) has to be pulled first.
static inline void *frame(struct __sk_buff *skb, __u32 len)
{
	void *data = context_pointer(skb, data);

	if (data + len > context_pointer(skb, data_end)) {
		if (bpf_skb_pull_data(skb, len))
			return 0;
		data = context_pointer(skb, data);
		if (data + len > context_pointer(skb, data_end))
			return 0;
	}
	return data;
}

static inline int same_mac(const volatile __u16 *a, const volatile __u16 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

static inline void copy_mac(__u16 *to, const volatile __u16 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

static inline int is_group_mac(const __u16 *mac)
{
	return *(const __u8 *)mac & 1;
}

static inline int same_address(const volatile struct address *a, const volatile struct address *b)
{
	return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) | (a->word[3] ^ b->word[3]));
}

static inline struct address mapped(__be32 ipv4)
{
	return (struct address){{0, 0, bpf_htonl(0xffff), ipv4}};
}

// is_low: in ::/64. No pod has such an address; ::ffff:0:0/96 in an IPv6 header would pass for an IPv4 one in the maps.
static inline int is_low(const struct address *a)
{
	return !(a->word[0] | a->word[1]);
}

static inline int is_unspecified(const struct address *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

static inline int is_link_local(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static inline int is_multicast(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}
