// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The backend for a call.
#pragma once

#include "sticky.h"

enum verdict {
	LEAVE, // the address as it is; a frontend's goes to the node then
	TRANSLATE,
	REFUSE,
};

// where a call goes, as far as it is known.
enum where {
	UNKNOWN,
	BACKEND,
	NODE,
	NOBODY,
};

enum {
	TRIES = 3,
	NS_PER_S = 1000000000,
};

static inline int is_nowhere(const struct endpoint *e)
{
	return is_unspecified(&e->address);
}

// pick chooses a backend at random. The element of a map that is replaced may become another's while it is looked at. So what a
// service says is believed only if it leads to a slot of that service. Slots and members go only when nobody can look at them.
static inline enum where pick(struct service *s, struct member *m, __u64 *network)
{
	__u32 try;

	for (try = 0; try < TRIES; try++) {
		struct slot key = {.service = m->service, .generation = s->generation};
		struct endpoint *backend;
		struct service *now;
		__u64 *by;

		if (s->count) {
			key.index = bpf_get_prandom_u32() % s->count;
			backend = bpf_map_lookup_elem(&slots, &key);
			if (backend) {
				m->backend = *backend;
				if (is_nowhere(&m->backend))
					return NOBODY;
				by = bpf_map_lookup_elem(&members, m);
				if (by) {
					*network = *by;
					return BACKEND;
				}
			}
		}
		now = bpf_map_lookup_elem(&services, &m->service);
		if (!now)
			return UNKNOWN;
		*s = *now;
	}
	return UNKNOWN;
}

// recall takes up what was chosen earlier, unless that backend is gone. A flow stays also with one that gets nothing new.
static inline enum where recall(const struct choice *kept, struct member *m, __u64 *network, int flow)
{
	__u64 *by;

	m->backend = kept->backend;
	if (is_nowhere(&m->backend))
		return NODE;
	by = flow ? member_of_flow(m) : bpf_map_lookup_elem(&members, m);
	if (!by) {
		count(RESELECTED);
		return UNKNOWN;
	}
	*network = *by;
	return BACKEND;
}

// choose decides for a call of the pod to a frontend of a service, and leaves the backend in to. The flow, of a UDP socket that is not
// connected, goes before affinity: as with conntrack, a flow that is used does not end with it.
static inline enum verdict choose(const struct pod *pod, struct client *client, const struct use *flow, struct endpoint *to)
{
	struct member m = {.service = client->service};
	int new_flow = 0, new_affinity = 0;
	struct choice *kept, next = {};
	struct service *service, s;
	enum where where = UNKNOWN;
	__u64 network = 0;

	service = bpf_map_lookup_elem(&services, &m.service);
	if (!service) {
		count(NODE_CHANGING);
		return LEAVE;
	}
	s = *service;
	if (s.flags & SERVICE_STEERED) {
		count(NODE_STEERED);
		return LEAVE;
	}
	if (flow && !(s.flags & SERVICE_EMPTY)) {
		kept = bpf_map_lookup_elem(&flows, flow);
		if (kept)
			where = recall(kept, &m, &network, 1);
		new_flow = where == UNKNOWN;
	}
	if (where == UNKNOWN && s.affinity && !(s.flags & SERVICE_EMPTY)) {
		next.used = bpf_ktime_get_ns();
		kept = bpf_map_lookup_elem(&affinities, client);
		// Another CPU may have used it since then, so that used is later.
		if (kept && next.used < kept->used + (__u64)s.affinity * NS_PER_S)
			where = recall(kept, &m, &network, 0);
		new_affinity = where == UNKNOWN;
		if (kept && where != UNKNOWN) {
			kept->used = next.used;
			count(AFFINITY_HIT);
		}
	}
	if (where == UNKNOWN)
		where = pick(&s, &m, &network);
	if (where == UNKNOWN) {
		count(NODE_CHANGING);
		return LEAVE;
	}
	if (where == NOBODY)
		return REFUSE;
	if (where == BACKEND) {
		if (native(pod, &m.backend.address, network)) {
			next.backend = m.backend;
		} else {
			where = NODE;
			new_flow = flow != 0;
			new_affinity |= next.used != 0;
		}
	}
	if (new_affinity)
		bpf_map_update_elem(&affinities, client, &next, BPF_ANY);
	if (new_flow)
		bpf_map_update_elem(&flows, flow, &next, BPF_ANY);
	if (where == NODE) {
		count(NODE_NOT_NATIVE);
		return LEAVE;
	}
	*to = m.backend;
	return TRANSLATE;
}
