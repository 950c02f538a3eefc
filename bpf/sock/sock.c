//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The programs at the socket calls of a cgroup. Each is complete in itself: no tail calls, so an update replaces it whole.

#include "call.h"

char _license[] SEC("license") = "Dual BSD/GPL";

enum {
	DENY,
	ALLOW,
};

static inline struct endpoint named4(struct bpf_sock_addr *ctx)
{
	return (struct endpoint){mapped(ctx->user_ip4), ctx->user_port, ctx->protocol};
}

// A v4-mapped address in an IPv6 socket is IPv4's, and is translated to such.
static inline struct endpoint named6(struct bpf_sock_addr *ctx)
{
	return (struct endpoint){
		{{ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}}, ctx->user_port, ctx->protocol};
}

static inline void set4(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	ctx->user_ip4 = to->address.word[3];
	ctx->user_port = to->port;
}

static inline void set6(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	ctx->user_ip6[0] = to->address.word[0];
	ctx->user_ip6[1] = to->address.word[1];
	ctx->user_ip6[2] = to->address.word[2];
	ctx->user_ip6[3] = to->address.word[3];
	ctx->user_port = to->port;
}

static inline int call4(struct bpf_sock_addr *ctx, int datagram)
{
	struct endpoint to = named4(ctx);
	enum verdict verdict = call(ctx, &to, datagram);

	if (verdict == TRANSLATE)
		set4(ctx, &to);
	return verdict == REFUSE ? DENY : ALLOW;
}

static inline int call6(struct bpf_sock_addr *ctx, int datagram)
{
	struct endpoint to = named6(ctx);
	enum verdict verdict = call(ctx, &to, datagram);

	if (verdict == TRANSLATE)
		set6(ctx, &to);
	return verdict == REFUSE ? DENY : ALLOW;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return call4(ctx, 0);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return call6(ctx, 0);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return call4(ctx, 1);
}

// Of IPv6 sockets too the kernel calls sendmsg4 for a v4-mapped address.
SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return call6(ctx, 1);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	struct endpoint from = named4(ctx);

	if (sender(ctx, &from))
		set4(ctx, &from);
	return ALLOW;
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	struct endpoint from = named6(ctx);

	if (sender(ctx, &from))
		set6(ctx, &from);
	return ALLOW;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	struct endpoint of = named4(ctx);

	if (peer(ctx, &of))
		set4(ctx, &of);
	return ALLOW;
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	struct endpoint of = named6(ctx);

	if (peer(ctx, &of))
		set6(ctx, &of);
	return ALLOW;
}
