// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the calls of sockets have in common.
#pragma once

#include "choose.h"

static inline int same_endpoint(const struct endpoint *a, const struct endpoint *b)
{
	return same_address(&a->address, &b->address) && a->port == b->port && a->protocol == b->protocol;
}

// note_tcp notes in the socket what it connects to. One that connects to a backend itself has no frontend any more.
static inline void note_tcp(struct bpf_sock_addr *ctx, enum verdict verdict, const struct endpoint *frontend, const struct endpoint *to)
{
	struct connection *c;

	if (verdict != TRANSLATE) {
		bpf_sk_storage_delete(&connections, ctx->sk);
		return;
	}
	c = bpf_sk_storage_get(&connections, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c) // no memory: getpeername will tell the backend
		return;
	c->backend = *to;
	c->frontend = *frontend;
}

// note_udp notes what the socket means by the address it sends to: the last call counts.
static inline void note_udp(struct use *use, enum verdict verdict, const struct endpoint *frontend, const struct endpoint *to)
{
	struct origin *noted, next = {.frontend = *frontend};

	use->address = *to;
	noted = bpf_map_lookup_elem(&origins, use);
	if (verdict != TRANSLATE) {
		if (noted)
			bpf_map_delete_elem(&origins, use);
		return;
	}
	if (!noted || !same_endpoint(&noted->frontend, frontend))
		bpf_map_update_elem(&origins, use, &next, BPF_ANY);
}

// connected says whom a socket is connected to, in the family of like.
static inline int connected(struct bpf_sock *sk, const struct endpoint *like, struct endpoint *to)
{
	if (sk->state != TCP_ESTABLISHED)
		return 0;
	to->port = sk->dst_port;
	to->protocol = like->protocol;
	if (is_low(&like->address)) {
		to->address = mapped(socket_word(sk, dst_ip4));
		return 1;
	}
	to->address.word[0] = socket_word(sk, dst_ip6[0]);
	to->address.word[1] = socket_word(sk, dst_ip6[1]);
	to->address.word[2] = socket_word(sk, dst_ip6[2]);
	to->address.word[3] = socket_word(sk, dst_ip6[3]);
	return 1;
}

// settled says whether it is settled where a datagram goes, since the socket is connected: it hears of nobody else. The kernel passes
// here also what is sent without address, if the socket is connected to a v4-mapped one.
static inline int settled(struct bpf_sock_addr *ctx, struct use *use, struct endpoint *to)
{
	struct endpoint peer = {};
	struct origin *o;

	if (!connected(ctx->sk, to, &peer))
		return 0;
	if (same_endpoint(&peer, to))
		return 1;
	use->address = peer;
	o = bpf_map_lookup_elem(&origins, use);
	if (!o || !same_endpoint(&o->frontend, to))
		return 0;
	*to = peer;
	return 1;
}

// call is a connect, or a sendmsg that names an address (datagram). It leaves in to where the call goes.
static inline enum verdict call(struct bpf_sock_addr *ctx, struct endpoint *to, int datagram)
{
	struct client client = {.pod = bpf_get_netns_cookie(ctx)};
	struct pod *pod = bpf_map_lookup_elem(&pods, &client.pod);
	struct endpoint named = *to;
	enum verdict verdict = LEAVE;
	struct use use = {};
	__u32 *service;

	if (!pod || (to->protocol != IPPROTO_TCP && to->protocol != IPPROTO_UDP))
		return LEAVE;
	use.socket = bpf_get_socket_cookie(ctx);
	if (datagram && settled(ctx, &use, to))
		return TRANSLATE; // or to where it goes anyway
	use.address = named;
	service = frontend(&named);
	if (service) {
		client.service = *service;
		verdict = choose(pod, &client, datagram ? &use : 0, to);
	}
	if (verdict == REFUSE) {
		count(REFUSED);
		bpf_set_retval(-ECONNREFUSED);
	} else if (to->protocol == IPPROTO_TCP) {
		note_tcp(ctx, verdict, &named, to);
	} else {
		note_udp(&use, verdict, &named, to);
	}
	if (verdict == TRANSLATE)
		count(to->protocol == IPPROTO_TCP ? TRANSLATED_TCP : TRANSLATED_UDP);
	return verdict;
}

// sender is whom a datagram came from: the frontend that the socket sent to, as long as it has that backend, by whichever service. After
// that the address may be somebody else's.
static inline int sender(struct bpf_sock_addr *ctx, struct endpoint *from)
{
	struct use use = {.socket = bpf_get_socket_cookie(ctx), .address = *from};
	struct origin *o = bpf_map_lookup_elem(&origins, &use);
	struct member m = {.backend = *from};
	struct endpoint meant;
	__u32 *service;

	if (!o)
		return 0;
	meant = o->frontend;
	service = frontend(&meant);
	if (!service)
		return 0;
	m.service = *service;
	if (!member_of_flow(&m))
		return 0;
	*from = meant;
	return 1;
}

// peer is what a socket is connected to, whatever became of the Service since.
static inline int peer(struct bpf_sock_addr *ctx, struct endpoint *of)
{
	if (of->protocol == IPPROTO_TCP) {
		struct connection *c = bpf_sk_storage_get(&connections, ctx->sk, 0, 0);

		if (!c || !same_endpoint(&c->backend, of))
			return 0;
		*of = c->frontend;
	} else {
		struct use use = {.socket = bpf_get_socket_cookie(ctx), .address = *of};
		struct origin *o = bpf_map_lookup_elem(&origins, &use);

		if (!o)
			return 0;
		*of = o->frontend;
	}
	return 1;
}
