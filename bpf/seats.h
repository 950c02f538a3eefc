// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// An array in front of a hash map: a look-up in a hash map calls four functions of the kernel, one in an array none. A key has two seats in
// the array, next to each other. What has none of them free is in the hash map alone, as everything is that has just changed. How user space
// fills them while programs read is in seats.go.
#pragma once

#include "abi.h"

enum {
	SEATS_BITS = 11, // as in seats.go
	SEATS = 1 << SEATS_BITS,
	SEATED = 1 << 15, // of the flags of a value: the seat is taken
};

// first_seat of a key of two words; the other one differs in the lowest bit. Multiplied, the high bits depend on all of the key.
static inline __u32 first_seat(__u64 high, __u64 low)
{
	const __u64 golden = 0x9e3779b97f4a7c15;

	return (high * golden + low) * golden >> (64 - SEATS_BITS);
}
