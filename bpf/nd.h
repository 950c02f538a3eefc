// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Neighbour discovery at vmac: answers local pods that ask for the gateway or for the node.
#pragma once

#include "config.h"
#include "endpoints.h"
#include "prefixes.h"
#include "sightings.h"

enum {
	ND_END = ETH_LEN + sizeof(struct ipv6) + sizeof(struct nd),
};

static inline int is_nd(__u8 icmpv6_type)
{
	return icmpv6_type >= ND_ROUTER_SOLICITATION && icmpv6_type <= ND_REDIRECT;
}

struct advertisement {
	__u16 align; // so that ip is aligned; not sent
	struct ethernet eth;
	struct ipv6 ip;
	struct nd nd;
	__u8 option;
	__u8 option_len; // in units of 8 bytes
	__u16 mac[3];
};

enum {
	ADVERTISEMENT_LEN = sizeof(struct advertisement) - __builtin_offsetof(struct advertisement, eth),
	ADVERTISEMENT_PAYLOAD = sizeof(struct advertisement) - __builtin_offsetof(struct advertisement, nd),
};

_Static_assert(ADVERTISEMENT_LEN == 86 && ADVERTISEMENT_PAYLOAD == 32, "wire layout");

// The pseudo-header's addresses and the message are neighbours in the frame; its other two words, the payload's length
// and the protocol, are the seed (RFC 8200, 8.1). Summed whole: nothing of the question's checksum is trusted.
static inline __u16 advertisement_checksum(struct advertisement *out)
{
	__u32 len = sizeof(*out) - __builtin_offsetof(struct advertisement, ip.src);
	__u32 sum = bpf_csum_diff(0, 0, out->ip.src.word, len, bpf_htonl(ADVERTISEMENT_PAYLOAD + IPPROTO_ICMPV6));

	// Newer kernels return 16 bits, older ones 32.
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

// sight_nd looks at who sends a solicitation, or for what address an advertisement is. Its MAC is the frame's source: the link-layer
// options say the same, and would have to be searched for.
static inline void sight_nd(struct __sk_buff *skb, __u32 len)
{
	struct ethernet *eth = frame(skb, ND_END);
	struct address address;
	struct ipv6 *ip;
	struct nd *nd;

	if (!eth || len < sizeof(*nd))
		return;
	ip = (void *)eth + ETH_LEN;
	nd = (void *)(ip + 1);
	// RFC 4861, 7.1.1 and 7.1.2.
	if (nd->code || ip->hop_limit != 255 || !(is_group_mac(eth->dst) || same_mac(eth->dst, config.mac)))
		return;
	if (nd->type == ND_SOLICITATION) {
		address = ip->src;
	} else if (nd->type == ND_ADVERTISEMENT) {
		struct address dst = ip->dst;

		address = nd->target;
		if (nd->flags & bpf_htonl(ND_FLAG_SOLICITED) && is_multicast(&dst))
			return;
	} else {
		return;
	}
	// Duplicate address detection is of an address that nobody uses yet.
	if (!is_low(&address))
		sight(&address, eth->src);
}

static inline enum reason judge_nd(struct __sk_buff *skb, __u8 type, __u32 len)
{
	struct advertisement out = {};
	struct ethernet *eth;
	struct ipv6 *ip;
	struct nd *nd;

	// Advertisements included: the host's neighbours on vmac are permanent, it asks for none.
	if (type != ND_SOLICITATION)
		return DROP_ND_OTHER;
	if (len < sizeof(*nd))
		return DROP_MALFORMED;
	eth = frame(skb, ND_END);
	if (!eth)
		return DROP_TRUNCATED;
	ip = (void *)eth + ETH_LEN;
	nd = (void *)(ip + 1);
	// RFC 4861, 7.1.1. A wrong checksum only gets its sender the answer it asked for. The options are not read: the
	// answer goes to the frame's source, which is checked, whatever the source link-layer option says.
	if (nd->code || ip->hop_limit != 255)
		return DROP_MALFORMED;
	if (!is_group_mac(eth->dst) && !same_mac(eth->dst, config.mac))
		return DROP_WRONG_MAC;

	out.nd.target = nd->target;
	out.ip.dst = ip->src;
	if (same_address(&out.nd.target, &config.gateway6))
		out.nd.flags = bpf_htonl(ND_FLAG_ROUTER | ND_FLAG_SOLICITED | ND_FLAG_OVERRIDE);
	else if (!is_low(&out.nd.target) && is_node_address(&out.nd.target))
		out.nd.flags = bpf_htonl(ND_FLAG_SOLICITED | ND_FLAG_OVERRIDE);
	else
		return DROP_ND_OTHER;

	// Duplicate address detection: an answer would tell a pod that its own address is taken.
	if (is_unspecified(&out.ip.dst))
		return DROP_ND_DAD;
	if (is_link_local(&out.ip.dst)) {
		struct mac mac;

		copy_mac(mac.word, eth->src);
		if (!bpf_map_lookup_elem(&macs, &mac))
			return DROP_ND_STRANGER;
	} else if (is_low(&out.ip.dst)) {
		return DROP_ND_STRANGER;
	} else {
		enum reason refused = sender(eth, &out.ip.dst, DROP_ND_STRANGER);

		if (refused != PERMITTED)
			return refused;
	}

	copy_mac(out.eth.dst, eth->src);
	copy_mac(out.eth.src, config.mac);
	out.eth.protocol = bpf_htons(ETH_P_IPV6);
	out.ip.version_class = 6 << 4;
	out.ip.payload_len = bpf_htons(ADVERTISEMENT_PAYLOAD);
	out.ip.next_header = IPPROTO_ICMPV6;
	out.ip.hop_limit = 255;
	out.ip.src = out.nd.target;
	out.nd.type = ND_ADVERTISEMENT;
	out.option = ND_OPTION_TARGET;
	out.option_len = 1;
	copy_mac(out.mac, config.mac);
	out.nd.checksum = advertisement_checksum(&out);

	// Solicitations differ in length: without options, with a nonce (RFC 7527), with padding.
	if (skb->len != ADVERTISEMENT_LEN && bpf_skb_change_tail(skb, ADVERTISEMENT_LEN, 0))
		return DROP_WRITE_FAILED;
	if (bpf_skb_store_bytes(skb, 0, &out.eth, ADVERTISEMENT_LEN, 0))
		return DROP_WRITE_FAILED;
	return ND_ANSWERED;
}
