// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the programs remember. None of it is believed: a backend counts only as far as members has it. Full maps forget what was not
// used for longest.
#pragma once

#include "maps.h"

// What was chosen; the unspecified address for "left to the node", which has chosen on its own then.
struct choice {
	__u64 used; // CLOCK_MONOTONIC of the last use, ns; of affinities only
	struct endpoint backend;
	__u32 pad;
};

// ClientIP affinity. The client is the pod, whichever of its addresses it uses.
struct client {
	__u64 pod;
	__u32 service;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct client);
	__type(value, struct choice);
	__uint(max_entries, 16384);
} affinities SEC(".maps");

// An address as a socket uses it.
struct use {
	__u64 socket;
	struct endpoint address;
	__u32 pad;
};

// The backend that an unconnected UDP socket uses for a frontend, so that it stays with it.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct use);
	__type(value, struct choice);
	__uint(max_entries, 32768);
} flows SEC(".maps");

// The frontend that a UDP socket means by a backend.
struct origin {
	struct endpoint frontend;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct use);
	__type(value, struct origin);
	__uint(max_entries, 32768);
} origins SEC(".maps");

// The frontend that a TCP socket connected to. Kept in the socket, and gone with it.
struct connection {
	struct endpoint backend;
	struct endpoint frontend;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct connection);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} connections SEC(".maps");
