// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// IPv6 of a guarded interface: its source, and what neighbour discovery says of addresses and MACs.
#pragma once

#include "source.h"

enum {
	IPPROTO_HOPOPTS = 0,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_AH = 51,
	IPPROTO_DSTOPTS = 60,
	MLD_REPORT = 131,
	MLD_DONE = 132,
	MLD2_REPORT = 143,
	ND_ROUTER_ADVERTISEMENT = 134,
	ND_OPTION_SOURCE = 1,
	MOST_EXTENSIONS = 8,
	MOST_OPTIONS = 8,
};

// What there is behind the extension headers.
struct upper {
	__u32 offset, end; // in the frame; what is behind the end is padding
	__u8 protocol;
	__u8 fragment; // the first of several
	__u8 later;    // a later one: there is no header to be seen
};

// find_upper walks the extension headers: receivers take neighbour discovery from behind them, too.
static inline enum refusal find_upper(struct __sk_buff *skb, struct upper *up)
{
	struct {
		__u8 next, len;
		__be16 fragment;
	} h;

	for (int n = 0; n < MOST_EXTENSIONS; n++) {
		switch (up->protocol) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_FRAGMENT:
		case IPPROTO_AH:
		case IPPROTO_DSTOPTS:
			break;
		default:
			return PERMITTED;
		}
		if (up->offset + sizeof(h) > up->end || take(skb, up->offset, &h, sizeof(h)))
			return SOURCE_TRUNCATED;
		if (up->protocol == IPPROTO_FRAGMENT) {
			up->offset += 8;
			if (h.fragment & bpf_htons(0xfff8)) {
				up->later = 1;
				return PERMITTED;
			}
			up->fragment |= !!(h.fragment & bpf_htons(1));
		} else if (up->protocol == IPPROTO_AH) {
			up->offset += (h.len + 2) * 4;
		} else {
			up->offset += (h.len + 1) * 8;
		}
		up->protocol = h.next;
	}
	return SOURCE_MALFORMED;
}

// judge_options: link-layer addresses are the interface's.
static inline enum refusal judge_options(struct __sk_buff *skb, const struct identity *i, __u32 offset, __u32 end)
{
	for (int n = 0; n < MOST_OPTIONS; n++) {
		struct {
			__u8 type, len;
			__u16 mac[3];
		} option;

		if (offset >= end)
			return PERMITTED;
		if (offset + sizeof(option) > end)
			return SOURCE_MALFORMED;
		if (take(skb, offset, &option, sizeof(option)))
			return SOURCE_TRUNCATED;
		if (!option.len)
			return SOURCE_MALFORMED;
		if ((option.type == ND_OPTION_SOURCE || option.type == ND_OPTION_TARGET) && !same_mac(option.mac, i->mac))
			return SOURCE_ND;
		offset += option.len * 8;
	}
	return SOURCE_MALFORMED;
}

// judge_icmpv6: a solicitation from :: is a probe of an address that is to be the interface's, an advertisement speaks of
// one that is. What only routers say, no pod says.
static inline enum refusal judge_icmpv6(struct __sk_buff *skb, const struct place *at, const struct identity *i, const struct upper *up,
					int from_nobody)
{
	struct address target;
	__u32 options;
	__u8 type;

	if (up->offset >= up->end || take(skb, up->offset, &type, sizeof(type)))
		return SOURCE_TRUNCATED;
	switch (type) {
	case MLD_REPORT: // from :: while the address is being probed (RFC 3590)
	case MLD_DONE:
	case MLD2_REPORT:
		return PERMITTED;
	case ND_ROUTER_ADVERTISEMENT:
	case ND_REDIRECT:
		return SOURCE_ROUTER;
	case ND_ROUTER_SOLICITATION:
		options = up->offset + 8;
		break;
	case ND_SOLICITATION:
	case ND_ADVERTISEMENT:
		options = up->offset + sizeof(struct nd);
		if (options > up->end)
			return SOURCE_MALFORMED;
		if (take(skb, up->offset + __builtin_offsetof(struct nd, target), &target, sizeof(target)))
			return SOURCE_TRUNCATED;
		if ((from_nobody || type == ND_ADVERTISEMENT) && !may_be(at, i, &target))
			return SOURCE_ND;
		if (from_nobody && type == ND_ADVERTISEMENT)
			return SOURCE_IPV6;
		break;
	default:
		return from_nobody ? SOURCE_IPV6 : PERMITTED;
	}
	if (up->fragment) // receivers ignore it (RFC 6980), if they are new enough
		return SOURCE_ND;
	return judge_options(skb, i, options, up->end);
}
