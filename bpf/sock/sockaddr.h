// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What programs at the socket calls of a cgroup have of the kernel's BPF interface, beside ../abi.h.
#pragma once

#include "../packet.h"

enum {
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_SK_STORAGE_GET_F_CREATE = 1,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	ECONNREFUSED = 111,
};

enum {
	TCP_ESTABLISHED = 1, // of any socket that is connected
};

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__be32 src_ip4;
	__be32 src_ip6[4];
	__u32 src_port;
	__be16 dst_port;
	__u16 pad;
	__be32 dst_ip4; // also of a socket connected to a v4-mapped address
	__be32 dst_ip6[4];
	__u32 state;
};

_Static_assert(__builtin_offsetof(struct bpf_sock, state) == 72, "layout of bpf_sock");

// As with context_pointer: clang would move the pointer to read either of two fields at one place.
#define socket_word(socket, field)                                                        \
	({                                                                                \
		__u32 word;                                                               \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                     \
			     : "=r"(word)                                                 \
			     : "r"(socket), "i"(__builtin_offsetof(struct bpf_sock, field))); \
		word;                                                                     \
	})

// The address that a call names or returns, in network byte order. user_port reads as 16 bits, whatever the machine's order.
struct bpf_sock_addr {
	__u32 user_family;
	__be32 user_ip4;
	__be32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	union {
		struct bpf_sock *sk;
		__u64 sk_align;
	};
};

_Static_assert(__builtin_offsetof(struct bpf_sock_addr, user_port) == 24, "layout of bpf_sock_addr");
_Static_assert(__builtin_offsetof(struct bpf_sock_addr, sk) == 64, "layout of bpf_sock_addr");

static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static __u64 (*const bpf_get_socket_cookie)(struct bpf_sock_addr *ctx) = (void *)46;
static void *(*const bpf_sk_storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)107;
static long (*const bpf_sk_storage_delete)(void *map, void *sk) = (void *)108;
static __u64 (*const bpf_get_netns_cookie)(struct bpf_sock_addr *ctx) = (void *)122;
static long (*const bpf_set_retval)(int retval) = (void *)187; // since 5.18
