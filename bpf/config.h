// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What is fixed for one vmac, set before the programs are loaded.
#pragma once

#include "packet.h"

struct config {
	__u16 mac[3]; // of vmac
	__u16 pad;
	struct address gateway4;
	struct address gateway6;
};

const volatile struct config config SEC(".rodata");
