//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The fence: what a guarded pod may not ask of the kernel, since its frames would go around the guard.

#include "fence_link.h"

enum {
	AF_XDP = 44,
	NETLINK_ROUTE = 0,
	SOL_PACKET = 263,
	PACKET_QDISC_BYPASS = 20,
	SIGKILL = 9,
};

char _license[] SEC("license") = "Dual BSD/GPL";

// The kernel hands over arguments as words, and behind them what the function has returned.
// int security_socket_setsockopt(struct socket *sock, int level, int optname)
SEC("fmod_ret/security_socket_setsockopt")
int fence_setsockopt(__u64 *ctx)
{
	struct fenced *f;

	if ((int)ctx[1] != SOL_PACKET || (int)ctx[2] != PACKET_QDISC_BYPASS)
		return 0;
	f = socket_within(((struct socket *)ctx[0])->sk);
	return f ? deny(f, FENCE_BYPASS) : 0;
}

// int security_socket_bind(struct socket *sock, struct sockaddr *address, int addrlen)
// Without it an AF_XDP socket does not send. Its frames go to the driver as those of PACKET_QDISC_BYPASS do (net/xdp/xsk.c,
// xsk_generic_xmit).
SEC("fmod_ret/security_socket_bind")
int fence_bind(__u64 *ctx)
{
	struct sock *sk = ((struct socket *)ctx[0])->sk;
	struct fenced *f;

	if (sk->__sk_common.skc_family != AF_XDP)
		return 0;
	f = socket_within(sk);
	return f ? deny(f, FENCE_XDP) : 0;
}

// int security_netlink_send(struct sock *sk, struct sk_buff *skb)
// The kernel has its own copy of the messages by then.
SEC("fmod_ret/security_netlink_send")
int fence_netlink(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct fenced *f;

	if (sk->sk_protocol != NETLINK_ROUTE)
		return 0;
	f = socket_within(sk);
	if (!f)
		return 0;
	switch (makes_macvlan((struct sk_buff *)ctx[1])) {
	case NO:
		return 0;
	case YES:
		return deny(f, FENCE_MACVLAN);
	case UNREADABLE:
		break;
	}
	return deny(f, FENCE_UNREADABLE);
}

// struct net *copy_net_ns(unsigned long flags, struct user_namespace *user_ns, struct net *old_net)
// A namespace that is made within the fence is within, too: else a pod that may make one would take its interface there, or ask
// from there for a link upon it. One that cannot be noted, as there are too many, costs its maker the life.
SEC("fexit/copy_net_ns")
int fence_inherit(__u64 *ctx)
{
	__u64 from = ((struct net *)ctx[2])->net_cookie, made = ((struct net *)ctx[3])->net_cookie;
	struct fenced *f = within(from), next = {};

	if (!f || !made || made == from) // it failed, or only other namespaces were copied
		return 0;
	next.pod = f->pod;
	if (bpf_map_update_elem(&fenced, &made, &next, BPF_ANY)) {
		deny(f, FENCE_FULL);
		bpf_send_signal(SIGKILL);
	}
	return 0;
}

// void __put_net(struct net *net)
// Nobody can enter the namespace any more. A pod's own is the agent's affair.
SEC("fentry/__put_net")
int fence_release(__u64 *ctx)
{
	__u64 cookie = ((struct net *)ctx[0])->net_cookie;
	struct fenced *f = within(cookie);

	if (f && f->pod != cookie)
		bpf_map_delete_elem(&fenced, &cookie);
	return 0;
}
