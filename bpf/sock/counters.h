// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What became of the calls of pods to Services.
#pragma once

#include "sockaddr.h"

// Names and meanings for people are in counters.go. Pinned counters go by position: see layout in attach.go.
enum event {
	TRANSLATED_TCP,
	TRANSLATED_UDP,
	NODE_STEERED,
	NODE_NOT_NATIVE,
	NODE_CHANGING,
	REFUSED,
	AFFINITY_HIT,
	RESELECTED,
	EVENTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum event);
	__type(value, __u64);
	__uint(max_entries, EVENTS);
} counters SEC(".maps");

static inline void count(enum event event)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &event);

	if (n)
		(*n)++;
}
