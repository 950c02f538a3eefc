// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// ARP at vmac: answers local pods that ask for the gateway or for the node.
#pragma once

#include "config.h"
#include "endpoints.h"
#include "prefixes.h"
#include "sightings.h"

static inline struct address arp_address(const __u16 *field)
{
	__be32 ipv4;

	__builtin_memcpy(&ipv4, field, sizeof(ipv4));
	return mapped(ipv4);
}

static inline int is_arp_ipv4(const struct arp *arp)
{
	return arp->hardware == bpf_htons(ARPHRD_ETHER) && arp->protocol == bpf_htons(ETH_P_IP) && arp->hardware_len == 6 &&
	       arp->protocol_len == 4;
}

static inline enum reason judge_arp(struct __sk_buff *skb)
{
	struct {
		struct ethernet eth;
		struct arp arp;
	} *in = frame(skb, sizeof(*in)), out;
	struct address target, source;
	enum reason refused;
	int is_request;

	if (!in)
		return DROP_TRUNCATED;
	if (!is_arp_ipv4(&in->arp))
		return DROP_MALFORMED;
	// The kernel revalidates a neighbour by unicast before it broadcasts.
	if (!is_group_mac(in->eth.dst) && !same_mac(in->eth.dst, config.mac))
		return DROP_WRONG_MAC;
	is_request = in->arp.operation == bpf_htons(ARP_REQUEST);
	source = arp_address(in->arp.sender);
	// Who asks uses an address as well as who answers or announces itself. A probe (RFC 5227) is of none yet.
	if ((is_request || in->arp.operation == bpf_htons(ARP_REPLY)) && source.word[3])
		sight(&source, in->arp.sender_mac);
	// No replies: the host's neighbours on vmac are permanent, it asks for none.
	if (!is_request)
		return DROP_ARP_OTHER;

	target = arp_address(in->arp.target);
	if (!same_address(&target, &config.gateway4) && !is_node_address(&target))
		return DROP_ARP_OTHER;
	// A probe asks whether the address is free (RFC 5227). An answer would tell a pod that its own address is taken.
	if (!source.word[3])
		return DROP_ARP_PROBE;
	// Other nodes' pods ask too, and have a vmac of their own that answers.
	refused = sender(&in->eth, &source, DROP_ARP_STRANGER);
	if (refused != PERMITTED)
		return refused;
	if (!same_mac(in->arp.sender_mac, in->eth.src))
		return DROP_SPOOFED_MAC;

	out.eth.protocol = bpf_htons(ETH_P_ARP);
	copy_mac(out.eth.dst, in->eth.src);
	copy_mac(out.eth.src, config.mac);
	out.arp.hardware = bpf_htons(ARPHRD_ETHER);
	out.arp.protocol = bpf_htons(ETH_P_IP);
	out.arp.hardware_len = 6;
	out.arp.protocol_len = 4;
	out.arp.operation = bpf_htons(ARP_REPLY);
	copy_mac(out.arp.sender_mac, config.mac);
	__builtin_memcpy(out.arp.sender, in->arp.target, sizeof(out.arp.sender));
	copy_mac(out.arp.target_mac, in->eth.src);
	__builtin_memcpy(out.arp.target, in->arp.sender, sizeof(out.arp.target));
	if (bpf_skb_store_bytes(skb, 0, &out, sizeof(out), 0))
		return DROP_WRITE_FAILED;
	return ARP_ANSWERED;
}
