//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The source guard: what leaves a pod's interface bears a MAC and an address of its leases. One program for all interfaces of the
// node; each has a small program of its own at its egress (source_entry.go), which says which one it is.

#include "late.h"
#include "source_nd.h"
#include "watch.h"

enum {
	ETH_P_RARP = 0x8035,
	IPPROTO_UDP = 17,
	DHCP_SERVER = 67,
	DHCP_CLIENT = 68,
};

char _license[] SEC("license") = "Dual BSD/GPL";

// The one program, where the entries find it.
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} programs SEC(".maps");

// judge_arp: the sender is the interface, under an address of its own or none yet: a probe (RFC 5227). Hypervisors announce a
// machine that has moved by RARP, which knows MACs only.
static inline enum refusal judge_arp(struct __sk_buff *skb, const struct place *at, const struct identity *i, int reverse)
{
	struct {
		struct ethernet eth;
		struct arp arp;
	} *in = frame(skb, sizeof(*in));
	__be32 sender;

	if (!in)
		return SOURCE_TRUNCATED;
	if (in->arp.hardware != bpf_htons(ARPHRD_ETHER) || in->arp.protocol != bpf_htons(ETH_P_IP) || in->arp.hardware_len != 6 ||
	    in->arp.protocol_len != 4)
		return SOURCE_MALFORMED;
	if (!same_mac(in->arp.sender_mac, i->mac))
		return SOURCE_ARP;
	__builtin_memcpy(&sender, in->arp.sender, sizeof(sender));
	if (!sender)
		return reverse || in->arp.operation == bpf_htons(ARP_REQUEST) ? PERMITTED : SOURCE_ARP;
	return has_ipv4(at, i, sender) ? PERMITTED : SOURCE_ARP;
}

// asks_for_lease: a DHCP client has no address of its own yet, and some have none when they renew it either.
static inline int asks_for_lease(struct __sk_buff *skb, const struct ipv4 *ip)
{
	__be16 ports[2];

	if (ip->protocol != IPPROTO_UDP || ip->fragment & bpf_htons(0x3fff))
		return 0;
	if (take(skb, ETH_LEN + (ip->version_ihl & 15) * 4, ports, sizeof(ports)))
		return 0;
	return ports[0] == bpf_htons(DHCP_CLIENT) && ports[1] == bpf_htons(DHCP_SERVER);
}

static inline enum refusal judge_ipv4(struct __sk_buff *skb, const struct place *at, const struct identity *i, __u32 *judged)
{
	struct ethernet *eth = frame(skb, ETH_LEN + sizeof(struct ipv4));
	struct ipv4 *ip;

	if (!eth)
		return SOURCE_TRUNCATED;
	ip = (void *)eth + ETH_LEN;
	if (ip->version_ihl >> 4 != 4)
		return SOURCE_MALFORMED;
	*judged = ETH_LEN + sizeof(*ip);
	if (has_ipv4(at, i, ip->src))
		return PERMITTED;
	if (!ip->src && i->flags & DHCP && asks_for_lease(skb, ip))
		return PERMITTED;
	return SOURCE_IPV4;
}

static inline enum refusal judge_ipv6(struct __sk_buff *skb, const struct place *at, const struct identity *i, __u32 *judged)
{
	struct ethernet *eth = frame(skb, ETH_LEN + sizeof(struct ipv6));
	struct upper up = {.offset = ETH_LEN + sizeof(struct ipv6)};
	struct address src;
	enum refusal refused;
	struct ipv6 *ip;
	int from_nobody;
	__u32 len;

	if (!eth)
		return SOURCE_TRUNCATED;
	ip = (void *)eth + ETH_LEN;
	if (ip->version_class >> 4 != 6)
		return SOURCE_MALFORMED;
	src = ip->src;
	len = bpf_htons(ip->payload_len);
	up.end = len || !skb->gso_size ? up.offset + len : skb->len; // BIG TCP does not fit the field
	up.protocol = ip->next_header;
	from_nobody = is_unspecified(&src);
	if (!from_nobody && !may_be(at, i, &src))
		return SOURCE_IPV6;
	refused = find_upper(skb, &up);
	if (refused != PERMITTED)
		return refused;
	*judged = up.offset;
	if (up.protocol == IPPROTO_ICMPV6 && !up.later) {
		*judged = skb->len;
		return judge_icmpv6(skb, at, i, &up, from_nobody);
	}
	return from_nobody ? SOURCE_IPV6 : PERMITTED;
}

// judge by the frame's own protocol: a packet socket may give skb->protocol any value.
static inline enum refusal judge(struct __sk_buff *skb, const struct place *at, const struct identity *i)
{
	struct ethernet *eth = frame(skb, ETH_LEN);
	__u32 judged = ETH_LEN + sizeof(struct arp); // bytes
	enum refusal refused;
	__be16 protocol;

	if (!eth)
		return SOURCE_TRUNCATED;
	if (!same_mac(eth->src, i->mac))
		return SOURCE_MAC;
	if (skb->vlan_present)
		return SOURCE_VLAN;
	protocol = eth->protocol;
	switch (protocol) {
	case bpf_htons(ETH_P_IP):
		refused = judge_ipv4(skb, at, i, &judged);
		break;
	case bpf_htons(ETH_P_IPV6):
		refused = judge_ipv6(skb, at, i, &judged);
		break;
	case bpf_htons(ETH_P_ARP):
	case bpf_htons(ETH_P_RARP):
		refused = judge_arp(skb, at, i, protocol == bpf_htons(ETH_P_RARP));
		break;
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		return SOURCE_VLAN;
	default:
		return SOURCE_NOT_IP;
	}
	return refused == PERMITTED && rewritten(skb, protocol, judged) ? SOURCE_MALFORMED : refused;
}

SEC("tc")
int source(struct __sk_buff *skb)
{
	struct place at = {(__u64)skb->cb[1] << 32 | skb->cb[0], skb->cb[2], 0};
	const struct identity *i = seated(&at);
	struct known_identity *known = 0;
	enum refusal refused;
	__u64 *count;

	if (!i) {
		known = bpf_map_lookup_elem(&identities, &at);
		if (known)
			i = &known->identity;
	}
	refused = i ? judge(skb, &at, i) : SOURCE_UNKNOWN;
	if (refused == PERMITTED)
		return TCX_NEXT;
	if (!known)
		known = bpf_map_lookup_elem(&identities, &at);
	if (known)
		__sync_fetch_and_add(&known->refused, 1);
	count = bpf_map_lookup_elem(&refusals, &refused);
	if (count)
		++*count;
	show(skb, SOURCE_DROPS << 8 | refused, at.cookie);
	return TCX_DROP;
}
