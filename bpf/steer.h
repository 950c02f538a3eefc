// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// IP at vmac: from local pods, as themselves, to steered prefixes.
#pragma once

#include "arp.h"
#include "nd.h"

// fits says whether an IP packet of that length is within the frame. Large segments (BIG TCP) do not fit the field, which
// is then 0; see iph_totlen and ipv6_hopopt_jumbo_remove in the kernel.
static inline int fits(struct __sk_buff *skb, __u32 len)
{
	return ETH_LEN + len <= skb->len;
}

static inline enum reason judge_ipv4(struct __sk_buff *skb)
{
	struct ethernet *eth = frame(skb, ETH_LEN + sizeof(struct ipv4));
	struct address src;
	enum reason refused;
	struct ipv4 *ip;
	__u32 header_len, len;
	__be32 dst;

	if (!eth)
		return DROP_TRUNCATED;
	if (!same_mac(eth->dst, config.mac))
		return is_group_mac(eth->dst) ? DROP_MULTICAST : DROP_WRONG_MAC;

	ip = (void *)eth + ETH_LEN;
	header_len = (ip->version_ihl & 15) * 4;
	len = bpf_htons(ip->total_len);
	if (ip->version_ihl >> 4 != 4 || header_len < sizeof(*ip))
		return DROP_MALFORMED;
	if (!len && skb->gso_size)
		len = header_len;
	if (len < header_len)
		return DROP_MALFORMED;
	if (!fits(skb, len))
		return DROP_TRUNCATED;

	// A group, or 240/4 with the broadcast address.
	dst = ip->dst;
	if ((dst & bpf_htonl(0xe0000000)) == bpf_htonl(0xe0000000))
		return DROP_MULTICAST;
	src = mapped(ip->src);
	refused = sender(eth, &src, DROP_SPOOFED_ADDRESS);
	if (refused != PERMITTED)
		return refused;
	// Even under a steered 0.0.0.0/0: the host would forward it.
	if (dst == config.gateway4.word[3])
		return DROP_NOT_STEERED;
	return is_steered_ipv4(dst) ? STEERED_IPV4 : DROP_NOT_STEERED;
}

static inline enum reason judge_ipv6(struct __sk_buff *skb)
{
	struct ethernet *eth = frame(skb, ETH_LEN + sizeof(struct ipv6));
	struct address src, dst;
	enum reason refused;
	struct ipv6 *ip;
	__u32 len;

	if (!eth)
		return DROP_TRUNCATED;
	ip = (void *)eth + ETH_LEN;
	if (ip->version_class >> 4 != 6)
		return DROP_MALFORMED;
	len = bpf_htons(ip->payload_len);
	if (!fits(skb, sizeof(*ip) + len))
		return DROP_TRUNCATED;

	if (ip->next_header == IPPROTO_ICMPV6) {
		struct nd *nd;
		__u8 type;

		eth = frame(skb, ETH_LEN + sizeof(struct ipv6) + 4);
		if (!eth || len < 4)
			return DROP_MALFORMED;
		ip = (void *)eth + ETH_LEN;
		nd = (void *)(ip + 1);
		type = nd->type;
		if (is_nd(type)) {
			sight_nd(skb, len);
			return judge_nd(skb, type, len);
		}
	}

	if (!same_mac(eth->dst, config.mac))
		return is_group_mac(eth->dst) ? DROP_MULTICAST : DROP_WRONG_MAC;
	src = ip->src;
	dst = ip->dst;
	if (is_multicast(&dst))
		return DROP_MULTICAST;
	if (is_link_local(&src))
		return DROP_LINK_LOCAL;
	refused = is_low(&src) ? DROP_SPOOFED_ADDRESS : sender(eth, &src, DROP_SPOOFED_ADDRESS);
	if (refused != PERMITTED)
		return refused;
	// Link-local, the gateway too, is this link's own affair, even under a steered ::/0.
	if (is_link_local(&dst) || is_low(&dst))
		return DROP_NOT_STEERED;
	return is_steered_ipv6(&dst) ? STEERED_IPV6 : DROP_NOT_STEERED;
}

static inline enum reason judge(struct __sk_buff *skb)
{
	struct ethernet *eth;

	if (skb->vlan_present)
		return DROP_VLAN;
	eth = frame(skb, ETH_LEN);
	if (!eth)
		return DROP_TRUNCATED;
	switch (eth->protocol) {
	case bpf_htons(ETH_P_IP):
		return judge_ipv4(skb);
	case bpf_htons(ETH_P_IPV6):
		return judge_ipv6(skb);
	case bpf_htons(ETH_P_ARP):
		return judge_arp(skb);
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		return DROP_VLAN;
	}
	return DROP_NOT_IP;
}
