// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The gateway is on every node and on no wire: what asks for it or claims it must not leave by the parent.
#pragma once

#include "arp.h"
#include "nd.h"

// is_local: from a pod of this node, or from vmac, whose answer to a pod that has just left goes by here. The gateway's
// addresses may well be a router's on the underlay, which the host asks for as itself.
static inline int is_local(const struct ethernet *eth)
{
	struct mac mac;

	copy_mac(mac.word, eth->src);
	return same_mac(mac.word, config.mac) || bpf_map_lookup_elem(&macs, &mac);
}

// leaks returns why the frame has to stay. All of the parent's traffic comes by here, the host's own too, so
// whatever is not clearly a pod's or vmac's and about the gateway passes. The frame's own protocol counts: a packet
// socket may give skb->protocol any value.
static inline enum reason leaks(struct __sk_buff *skb)
{
	struct ethernet *eth = frame(skb, ETH_LEN);

	if (!eth)
		return PERMITTED;
	if (eth->protocol == bpf_htons(ETH_P_ARP)) {
		struct address target, source;
		struct arp *arp;

		eth = frame(skb, ETH_LEN + sizeof(*arp));
		if (!eth)
			return PERMITTED;
		arp = (void *)(eth + 1);
		if (!is_arp_ipv4(arp))
			return PERMITTED;
		target = arp_address(arp->target);
		source = arp_address(arp->sender);
		if (same_address(&target, &config.gateway4) || same_address(&source, &config.gateway4))
			return is_local(eth) ? GUARD_ARP : PERMITTED;
	} else if (eth->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6 *ip;
		struct nd *nd;

		eth = frame(skb, ETH_LEN + sizeof(*ip));
		if (!eth)
			return PERMITTED;
		ip = (void *)eth + ETH_LEN;
		if (ip->next_header != IPPROTO_ICMPV6)
			return PERMITTED;
		eth = frame(skb, ETH_LEN + sizeof(*ip) + 4);
		if (!eth)
			return PERMITTED;
		ip = (void *)eth + ETH_LEN;
		nd = (void *)(ip + 1);
		if (!is_nd(nd->type))
			return PERMITTED;
		if (same_address(&ip->src, &config.gateway6))
			return is_local(eth) ? GUARD_ND : PERMITTED;
		if (nd->type != ND_SOLICITATION && nd->type != ND_ADVERTISEMENT)
			return PERMITTED;
		eth = frame(skb, ND_END);
		if (!eth)
			return PERMITTED;
		nd = (void *)eth + ETH_LEN + sizeof(*ip);
		if (same_address(&nd->target, &config.gateway6))
			return is_local(eth) ? GUARD_ND : PERMITTED;
	}
	return PERMITTED;
}
