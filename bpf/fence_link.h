// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Requests to make a macvlan or macvtap link, in what is sent to rtnetlink. Upon a macvlan link such a one would become a child of the
// same parent (drivers/net/macvlan.c, macvlan_common_newlink), and its frames never see the interface of the pod.
#pragma once

#include "fence.h"

enum {
	RTM_NEWLINK = 16,
	NLM_F_CREATE = 0x400,
	MESSAGE_LEN = 16, // struct nlmsghdr
	LINK_LEN = 16,	  // struct ifinfomsg
	IFLA_LINKINFO = 18,
	IFLA_INFO_KIND = 1,
	NLA_TYPE = 0x3fff,
	HEADERS = 4096, // that are looked at in what is sent at once
};

enum answer {
	NO,
	YES,
	UNREADABLE,
};

// Where we are in what is sent: in front of the header of a message, of an attribute of a message, or of one within that.
struct walk {
	const unsigned char *data;
	__u32 at, len;
	__u32 message, attribute; // their ends, zero outside
	enum answer answer;
};

// Where each CPU is. Not on the stack: before 6.7 the verifier takes what it knows there when the first step begins for true in all
// steps, and drops the branches that others take. A program does not run on a CPU where it is running already.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct walk);
	__uint(max_entries, 1);
} walks SEC(".maps");

struct message_header {
	__u32 len;
	__u16 type, flags;
};

struct attribute_header {
	__u16 len, type;
};

static inline __u32 aligned(__u32 n)
{
	return (n + 3) & ~3U;
}

static inline int cannot_read(struct walk *w, void *to, __u32 len)
{
	if (!bpf_probe_read_kernel(to, len, w->data + w->at))
		return 0;
	w->answer = UNREADABLE;
	return 1;
}

// next_message: as netlink_rcv_skb goes on, and ends (net/netlink/af_netlink.c). Only a message with NLM_F_CREATE makes a link.
static inline long next_message(struct walk *w)
{
	struct message_header h;

	if (w->at >= w->len || w->len - w->at < MESSAGE_LEN)
		return 1;
	if (cannot_read(w, &h, sizeof(h)))
		return 1;
	if (h.len < MESSAGE_LEN || h.len > w->len - w->at)
		return 1;
	if (h.type != RTM_NEWLINK || !(h.flags & NLM_F_CREATE)) {
		w->at += aligned(h.len);
		return 0;
	}
	w->message = w->at + h.len;
	w->at += MESSAGE_LEN + LINK_LEN;
	return 0;
}

// leave the attribute, or else the message.
static inline long leave(struct walk *w)
{
	if (w->attribute) {
		w->at = aligned(w->attribute);
		w->attribute = 0;
	} else {
		w->at = aligned(w->message);
		w->message = 0;
	}
	return 0;
}

// next_attribute: as nla_for_each_attr goes on, and ends (include/net/netlink.h). Of several with one type the kernel takes the last;
// here any counts.
static inline long next_attribute(struct walk *w)
{
	__u32 end = w->attribute ? w->attribute : w->message;
	struct attribute_header h;
	char kind[4];

	if (w->at >= end || end - w->at < sizeof(h))
		return leave(w);
	if (cannot_read(w, &h, sizeof(h)))
		return 1;
	if (h.len < sizeof(h) || h.len > end - w->at)
		return leave(w);
	h.type &= NLA_TYPE;
	if (!w->attribute && h.type == IFLA_LINKINFO) {
		w->attribute = w->at + h.len;
		w->at += sizeof(h);
		return 0;
	}
	if (w->attribute && h.type == IFLA_INFO_KIND && h.len >= sizeof(h) + sizeof(kind)) {
		w->at += sizeof(h);
		if (cannot_read(w, kind, sizeof(kind)))
			return 1;
		w->at -= sizeof(h);
		// macvlan and macvtap; no other kind begins so.
		if (kind[0] == 'm' && kind[1] == 'a' && kind[2] == 'c' && kind[3] == 'v') {
			w->answer = YES;
			return 1;
		}
	}
	w->at += aligned(h.len);
	return 0;
}

static long step(__u32 n, struct walk **walk)
{
	struct walk *w = *walk;

	(void)n;
	return w->message ? next_attribute(w) : next_message(w);
}

// makes_macvlan says whether any message does. One that the kernel would not read to its end is not read further here either.
static inline enum answer makes_macvlan(const struct sk_buff *skb)
{
	__u32 here = 0;
	struct walk *w = bpf_map_lookup_elem(&walks, &here);

	if (!w || skb->data_len)
		return UNREADABLE;
	__builtin_memset(w, 0, sizeof(*w));
	w->data = skb->data;
	w->len = skb->len;
	if (bpf_loop(HEADERS, step, &w, 0) >= HEADERS)
		return UNREADABLE;
	return w->answer;
}
