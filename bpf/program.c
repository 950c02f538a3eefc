//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The programs of one vmac. Each is complete in itself: no tail calls, so an update replaces it whole.

#include "guard.h"
#include "steer.h"
#include "watch.h"

char _license[] SEC("license") = "Dual BSD/GPL";

// On vmac's ingress.
SEC("tc")
int steer(struct __sk_buff *skb)
{
	enum reason reason = judge(skb);

	count(skb, reason);
	if (reason <= STEERED_IPV6)
		return TCX_NEXT;
	// Out of the link that the question came in by: macvlan hands it to the pod whose MAC it bears.
	if (reason <= ND_ANSWERED)
		return bpf_redirect(skb->ifindex, 0);
	show(skb, STEER_DROPS << 8 | reason, 0);
	return TCX_DROP;
}

// On the parent's egress.
SEC("tc")
int guard(struct __sk_buff *skb)
{
	enum reason reason = leaks(skb);

	if (reason == PERMITTED)
		return TCX_NEXT;
	count(skb, reason);
	show(skb, GUARD_DROPS << 8 | reason, 0);
	return TCX_DROP;
}
