// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Who may translate, and the Services. The agent alone writes them; in which order is said in changes.go.
#pragma once

#include "counters.h"

enum {
	WAYS = 8, // of a pod, at most
};

struct endpoint {
	struct address address;
	__be16 port;
	__u16 protocol;
};

// A network that a pod is on, as far as the address masked is the network's.
struct way {
	__u64 network;
	struct address address;
	struct address mask;
};

struct pod {
	__u64 count;
	struct way ways[WAYS];
};

// By the cookie of the pod's network namespace, which no other ever has until the node boots.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct pod);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} pods SEC(".maps");

// The addresses of nodes, for the frontends with the unspecified address.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address);
	__type(value, __u32);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} nodes SEC(".maps");

// Frontend to service, that is to one port of a Service.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct endpoint);
	__type(value, __u32);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} frontends SEC(".maps");

enum {
	SERVICE_STEERED = 1, // left to the node
	SERVICE_EMPTY = 2,   // has no backend: its one slot has the unspecified address, and means refuse
};

struct service {
	__u32 generation;
	__u32 count; // slots, never 0
	__u32 affinity; // seconds; 0 for none
	__u32 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct service);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} services SEC(".maps");

// What a random number picks.
struct slot {
	__u32 service;
	__u32 generation;
	__u32 index;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct slot);
	__type(value, struct endpoint);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} slots SEC(".maps");

// Which backends a service has, and by which network they are reached; by 0, which no pod has, none is. This is the word on whether one still is there.
struct member {
	__u32 service;
	struct endpoint backend;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct member);
	__type(value, __u64);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} members SEC(".maps");

enum {
	STAYS = 0x100, // in the protocol of a member: it gets nothing new, but flows that have begun stay there
};

// member_of_flow looks for a backend, be it one that gets nothing new. One that changes is both for a moment, so that it is found; if it
// is new ones' again, by the last look.
static inline __u64 *member_of_flow(struct member *m)
{
	__u64 *network = bpf_map_lookup_elem(&members, m);

	if (network)
		return network;
	m->backend.protocol |= STAYS;
	network = bpf_map_lookup_elem(&members, m);
	m->backend.protocol &= ~STAYS;
	return network ?: bpf_map_lookup_elem(&members, m);
}

// frontend returns the service that the address and port belong to, or null.
static inline __u32 *frontend(const struct endpoint *to)
{
	struct endpoint any = {.port = to->port, .protocol = to->protocol};
	__u32 *service;

	if (!to->address.word[3] && is_low(&to->address)) // unspecified: this pod itself
		return 0;
	service = bpf_map_lookup_elem(&frontends, to);
	if (service)
		return service;
	if (is_low(&to->address))
		any.address = mapped(0);
	service = bpf_map_lookup_elem(&frontends, &any);
	if (service && bpf_map_lookup_elem(&nodes, &to->address))
		return service;
	return 0;
}

// native says whether the pod reaches an address of the network without its node.
static inline int native(const struct pod *pod, const struct address *address, __u64 network)
{
	__u32 i;

	for (i = 0; i < WAYS; i++) {
		const struct way *w = &pod->ways[i];

		if (i >= pod->count)
			break;
		if (w->network == network && !(((address->word[0] & w->mask.word[0]) ^ w->address.word[0]) |
					       ((address->word[1] & w->mask.word[1]) ^ w->address.word[1]) |
					       ((address->word[2] & w->mask.word[2]) ^ w->address.word[2]) |
					       ((address->word[3] & w->mask.word[3]) ^ w->address.word[3])))
			return 1;
	}
	return 0;
}
