// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Whom the fence is about, and the parts of the kernel's own structures that it reads. Where their fields are is found when the
// program is loaded, from the kernel's BTF.
#pragma once

#include "abi.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct net {
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	unsigned short skc_family;
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};

struct socket {
	struct sock *sk;
};

struct sk_buff {
	unsigned int len, data_len;
	unsigned char *data;
};

#pragma clang attribute pop

static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*const bpf_send_signal)(__u32 signal) = (void *)109;
static long (*const bpf_probe_read_kernel)(void *to, __u32 len, const void *from) = (void *)113;
static long (*const bpf_loop)(__u32 times, void *step, void *with, __u64 flags) = (void *)181;

// Names and meanings for people are in fence_counters.go. Pinned counters go by position: see sourceLayout.
enum denial {
	FENCE_BYPASS,
	FENCE_XDP,
	FENCE_MACVLAN,
	FENCE_UNREADABLE,
	FENCE_FULL,
	DENIALS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum denial);
	__type(value, __u64);
	__uint(max_entries, DENIALS);
} denials SEC(".maps");

// Of a network namespace within the fence.
struct fenced {
	__u64 pod;    // cookie of the pod's own, of which this one is a descendant; or this one's
	__u64 denied; // calls, counted with the pod's own
};

// By cookie. The agent puts the pods' own there, and takes them away; the programs inherit and release those that are made within.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct fenced);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} fenced SEC(".maps");

static inline struct fenced *within(__u64 cookie)
{
	return bpf_map_lookup_elem(&fenced, &cookie);
}

static inline struct fenced *socket_within(const struct sock *sk)
{
	return within(sk->__sk_common.skc_net.net->net_cookie);
}

static inline void count_denial(enum denial reason)
{
	__u64 *count = bpf_map_lookup_elem(&denials, &reason);

	if (count)
		++*count;
}

// deny a call of a namespace within the fence.
static inline int deny(struct fenced *f, enum denial reason)
{
	__u64 pod = f->pod;

	count_denial(reason);
	f = within(pod);
	if (f)
		__sync_fetch_and_add(&f->denied, 1);
	return -1; // EPERM
}
