// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Who uses the pools' addresses on the segment. User space, which knows the leases, is told what ARP and ND say of their senders.
#pragma once

#include "endpoints.h"
#include "prefixes.h"

enum {
	SECOND = 1000 * 1000 * 1000, // in ns
	PAUSE = 30,                  // seconds in which the same sighting is not told again
	BUDGET = 128,                // sightings told in a second
	SEEN = 4096,                 // more than BUDGET allows in a PAUSE, so that none is forgotten before its time
};

_Static_assert(SEEN >= (PAUSE + 1) * BUDGET, "room for what may be told in a pause");

// An address and the MAC that uses it; what user space gets.
struct sighting {
	struct address address;
	__u16 mac[3];
	__u16 pad; // zero
};

_Static_assert(sizeof(struct sighting) == 24, "no padding in a key");

// The addresses that pools give out on this segment. Empty: nothing is told.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix_key);
	__type(value, __u32);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} watched SEC(".maps");

// When each sighting was told last.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sighting);
	__type(value, __u64);
	__uint(max_entries, SEEN);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} sightings SEC(".maps");

// CPUs do not wait for each other here: some sightings more than BUDGET in a second, or a count too few, do no harm.
struct telling {
	__u64 since; // begin of the second that spent is of
	__u64 spent;
	__u64 told, over_budget, buffer_full; // ever
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct telling);
	__uint(max_entries, 1);
} telling SEC(".maps");

// sight tells of the MAC that uses the address, unless it is a local pod's or nobody's business. A function of its own, so that the
// code of steered packets stays what it is without.
static __attribute__((noinline)) int sight(const struct address *address, const __u16 *mac)
{
	struct prefix_key key = {.len = 128, .address = *address};
	struct sighting sighting = {.address = *address};
	struct telling *t;
	struct endpoint *e;
	__u64 now, *last;
	__u32 zero = 0;

	copy_mac(sighting.mac, mac);
	if (is_group_mac(sighting.mac) || !(sighting.mac[0] | sighting.mac[1] | sighting.mac[2]))
		return 0;
	if (!bpf_map_lookup_elem(&watched, &key))
		return 0;
	e = bpf_map_lookup_elem(&endpoints, address);
	if (e && same_mac(sighting.mac, e->mac))
		return 0;
	now = bpf_ktime_get_ns();
	last = bpf_map_lookup_elem(&seen, &sighting);
	if (last && now - *last < (__u64)PAUSE * SECOND)
		return 0;
	t = bpf_map_lookup_elem(&telling, &zero);
	if (!t)
		return 0;
	if (now - t->since >= SECOND) {
		t->since = now;
		t->spent = 0;
	}
	if (t->spent >= BUDGET) {
		t->over_budget++;
		return 0;
	}
	t->spent++;
	if (bpf_ringbuf_output(&sightings, &sighting, sizeof(sighting), 0)) {
		t->buffer_full++;
		return 0;
	}
	t->told++;
	bpf_map_update_elem(&seen, &sighting, &now, BPF_ANY);
	return 0;
}
