// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the kernel writes into a frame when the guard has looked at it: a checksum, and the fields of segments. Where it does, a packet
// socket (PACKET_VNET_HDR) or a virtual machine may say.
#pragma once

#include "packet.h"

// Of the kernel's own structure, which __sk_buff stands for. Where the fields are is found when the program is loaded, from the
// kernel's BTF; without that they do not exist.
struct sk_buff {
	__u8 ip_summed : 2;
	__u16 csum_start;
	unsigned char *head, *data;
} __attribute__((preserve_access_index));

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
};

enum {
	AF_INET = 2,
	AF_INET6 = 10,
	CHECKSUM_PARTIAL = 3,
};

// What __builtin_preserve_field_info tells of a field (enum bpf_field_info_kind of libbpf).
enum {
	FIELD_OFFSET = 0,
	FIELD_SIZE = 1,
	FIELD_EXISTS = 2,
	FIELD_LEFT = 4, // shifts of the bits in eight bytes
	FIELD_RIGHT = 5,
};

static long (*const bpf_probe_read_kernel)(void *to, __u32 len, const void *from) = (void *)113;

// checksum_within: one is yet to be written, from somewhere in the first bytes on. A function of its own, as it is for few frames.
static __attribute__((noinline)) int checksum_within(struct __sk_buff *skb, __u32 bytes)
{
	const struct sk_buff *b = (const void *)skb;
	unsigned char *head, *data;
	__u64 summed = 0;
	__u16 start;
	void *to = &summed;

	if (!__builtin_preserve_field_info(b->ip_summed, FIELD_EXISTS))
		return 0;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	to += sizeof(summed) - __builtin_preserve_field_info(b->ip_summed, FIELD_SIZE);
#endif
	if (bpf_probe_read_kernel(to, __builtin_preserve_field_info(b->ip_summed, FIELD_SIZE),
				  (const void *)skb + __builtin_preserve_field_info(b->ip_summed, FIELD_OFFSET)))
		return 1;
	summed <<= __builtin_preserve_field_info(b->ip_summed, FIELD_LEFT);
	summed >>= __builtin_preserve_field_info(b->ip_summed, FIELD_RIGHT);
	if (summed != CHECKSUM_PARTIAL)
		return 0;
	if (bpf_probe_read_kernel(&head, sizeof(head), &b->head) || bpf_probe_read_kernel(&data, sizeof(data), &b->data) ||
	    bpf_probe_read_kernel(&start, sizeof(start), &b->csum_start))
		return 1;
	return head + start < data + bytes;
}

// rewritten: what was judged of the frame, its first bytes, will not stay as it is. The kernel's own sockets of IP know where their
// checksum goes; nearly all frames are theirs. Segments are made by the protocol that a packet socket gives, not by the frame's.
static inline int rewritten(struct __sk_buff *skb, __be16 protocol, __u32 bytes)
{
	const struct bpf_sock *sk = (const void *)skb->sk;

	if (skb->gso_size && skb->protocol != protocol)
		return 1;
	if (sk && (sk->family == AF_INET || sk->family == AF_INET6))
		return 0;
	return checksum_within(skb, bytes);
}
