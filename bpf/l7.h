/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Detects the application protocol of a payload. No verdict is better than a wrong one: a payload that could be of two protocols
 * gets none, unless the other end, or a port that belongs to one of them, confirms it.
 */
#pragma once

#include "l7_window.h"
#include "l7_text.h"
#include "l7_prefix.h"
#include "l7_http.h"
#include "l7_http2.h"
#include "l7_redis.h"
#include "l7_memcached.h"
#include "l7_queue.h"
#include "l7_database.h"
#include "l7_cassandra.h"
#include "l7_tls.h"
#include "l7_datagram.h"
#include "l7_first.h"

#define NM_WANTED(app) (nm_apps & NM_APP_BIT(app))

#ifndef NM_POSSIBLE /* a test builds the detectors so that nothing is ruled out */
#define NM_POSSIBLE(w, bits) ((w)->candidates & (bits))
#define NM_POSSIBLE_PREFIX(w) nm_could_be_prefix(nm_byte(w, 0))
#endif

/* Runs the detector of a protocol if that is looked for, and returns its verdict if it has one. */
#define NM_ASK(app, detector, ...)                           \
	do {                                                 \
		if (NM_WANTED(app)) {                        \
			int verdict = detector(__VA_ARGS__); \
                                                             \
			if (verdict && verdict != NM_MORE)   \
				return verdict;              \
			more |= verdict;                     \
		}                                            \
	} while (0)

/* The same, unless the first bytes rule the protocol out. */
#define NM_ASK_IF(app, ...)                           \
	do {                                          \
		if (NM_POSSIBLE(w, NM_APP_BIT(app)))  \
			NM_ASK(app, __VA_ARGS__);     \
	} while (0)

/* At the start of what a side sends. The first byte separates text from the rest; detectors that move the window come last. */
__noinline int nm_detect_start(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int more = 0;

	if (!w)
		return NM_NO;
	w->s.weak &= NM_SOCKS;
	w->candidates = nm_candidates(w);
	/* These start with a length, which may look like a letter. */
	NM_ASK_IF(NM_APP_POSTGRES, nm_detect_postgres, id);
	NM_ASK_IF(NM_APP_MYSQL, nm_detect_mysql, id);
	NM_ASK_IF(NM_APP_MONGODB, nm_detect_mongodb, id);
	NM_ASK_IF(NM_APP_AMQP, nm_detect_amqp, id);
	NM_ASK_IF(NM_APP_CASSANDRA, nm_detect_cassandra, id);
	if (nm_byte(w, 0) > ' ' && nm_byte(w, 0) <= '~') {
		NM_ASK_IF(NM_APP_SSH, nm_detect_ssh, id);
		NM_ASK_IF(NM_APP_SMTP, nm_detect_smtp, id);
		NM_ASK_IF(NM_APP_REDIS, nm_detect_redis, id);
		NM_ASK_IF(NM_APP_MEMCACHED, nm_detect_memcached, id);
		NM_ASK_IF(NM_APP_NATS, nm_detect_nats, id);
	} else {
		NM_ASK_IF(NM_APP_DNS, nm_detect_dns, id);
		NM_ASK_IF(NM_APP_KAFKA, nm_detect_kafka, id);
		NM_ASK_IF(NM_APP_MQTT, nm_detect_mqtt, id);
		NM_ASK_IF(NM_APP_MEMCACHED, nm_detect_memcached_binary, id);
	}
	if (NM_POSSIBLE(w, NM_APP_BIT(NM_APP_HTTP2)))
		NM_ASK(NM_WANTED(NM_APP_HTTP2) ? NM_APP_HTTP2 : NM_APP_GRPC, nm_detect_http2, skb, id);
	/* Once a detector has moved the window, only that one can continue. */
	if (w->s.base == w->s.start)
		NM_ASK_IF(NM_APP_TLS, nm_detect_tls, skb, id);
	if (w->s.base == w->s.start && !more)
		NM_ASK_IF(NM_APP_HTTP, nm_detect_http, skb, id);
	if (w->s.base == w->s.start && !more && !w->s.weak)
		NM_ASK(NM_APP_SSH, nm_detect_ssh_behind, id);
	return w->s.base != w->s.start && !w->s.stage ? NM_NO : more;
}

/* In the middle of a stream: only what is complete and recognisable anywhere. */
__noinline int nm_detect_middle(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int more = 0;

	if (!w)
		return NM_NO;
	NM_ASK(NM_APP_MONGODB, nm_detect_mongodb, id);
	NM_ASK(NM_APP_DNS, nm_detect_dns, id);
	NM_ASK(NM_APP_KAFKA, nm_detect_kafka, id);
	NM_ASK(NM_APP_REDIS, nm_detect_redis, id);
	NM_ASK(NM_APP_MEMCACHED, nm_detect_memcached, id);
	NM_ASK(NM_APP_MEMCACHED, nm_detect_memcached_binary, id);
	NM_ASK(NM_APP_TLS, nm_detect_tls_records, skb, id);
	if (!w->s.base)
		NM_ASK(NM_APP_HTTP, nm_detect_http, skb, id);
	return more;
}

__noinline int nm_detect_datagram(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int more = 0;

	if (!w)
		return NM_NO;
	NM_ASK(NM_APP_DNS, nm_detect_dns, id);
	NM_ASK(NM_APP_QUIC, nm_detect_quic, skb, id);
	return more;
}

/* Protocols a port belongs to: not proof, but enough to decide between two candidates. */
static __always_inline __u32 nm_apps_of_port(__u16 port)
{
	switch (port) {
	case 25:
	case 587:
		return NM_APP_BIT(NM_APP_SMTP);
	case 1883:
		return NM_APP_BIT(NM_APP_MQTT);
	case 4222:
		return NM_APP_BIT(NM_APP_NATS);
	case 6379:
		return NM_APP_BIT(NM_APP_REDIS);
	case 9042:
		return NM_APP_BIT(NM_APP_CASSANDRA);
	case 11211:
		return NM_APP_BIT(NM_APP_MEMCACHED);
	}
	return 0;
}

#include "l7_glance.h"

/* The protocol the payload may be of, if something else confirms it: a port, or the other end, with the reply to a request. */
static __always_inline int nm_settle(const struct nm_l7 *w)
{
	__u32 weak = w->s.weak, more;

	if (!weak)
		return NM_NO;
	more = (nm_from_client(w) ? nm_apps_of_port(w->p.dport) : 0) | (nm_from_server(w) ? nm_apps_of_port(w->p.sport) : 0);
	if (!(weak & more) && !w->middle) {
		more = nm_company(w);
		/* If both ends look like they sent requests, or both replies, neither confirms the other. */
		if ((weak & more & NM_REQUEST) || (weak & more & NM_REPLY))
			return NM_NO;
		if (!(weak & NM_REQUEST && more & NM_REPLY) && !(weak & NM_REPLY && more & NM_REQUEST))
			return NM_NO;
	}
	weak &= more & nm_apps & ~(NM_REQUEST | NM_REPLY | NM_SOCKS | NM_GOES_ON);
#pragma unroll
	for (int app = NM_APP_HTTP; app <= NM_APP_QUIC; app++)
		if (weak == NM_APP_BIT(app)) /* and no other */
			return app;
	return NM_NO;
}

static __always_inline int nm_detect_stream(struct __sk_buff *skb, struct nm_l7 *w, __u32 id)
{
	int verdict = NM_MORE;

	w->s.calls++;
	if (nm_advance(skb, id, 0)) {
		switch (w->s.stage) {
		case NM_STAGE_FIRST:
			w->prefix = !w->s.start && NM_POSSIBLE_PREFIX(w) ? nm_prefix(skb, id) : NM_NO;
			w->s.weak |= w->marks & NM_SOCKS;
			if (w->prefix == NM_SURE || (w->prefix == NM_YES && !w->s.have))
				break;
			verdict = nm_detect_start(skb, id);
			if (verdict == NM_NO || verdict == NM_MORE)
				verdict = nm_settle(w) ?: verdict;
			if (verdict == NM_NO && w->prefix == NM_MORE)
				verdict = NM_MORE;
			if (verdict == NM_MORE && w->s.stage == NM_STAGE_FIRST && w->s.have == NM_WINDOW)
				verdict = NM_NO;
			break;
		case NM_STAGE_TARGET:
			verdict = nm_http_target(skb, id);
			break;
		case NM_STAGE_TLS:
			verdict = nm_tls_extensions(skb, id);
			break;
		case NM_STAGE_FRAMES:
			verdict = nm_http2_frames(skb, id);
			break;
		}
		if (verdict == NM_MORE && w->s.stage == NM_STAGE_FIELDS)
			verdict = nm_http2_fields(skb, id);
	} /* else the payload was seen before, or comes after a gap */
	if (verdict == NM_MORE && w->s.calls >= NM_H2_CALLS && w->s.stage >= NM_STAGE_FRAMES)
		verdict = NM_APP_HTTP2;
	if (verdict == NM_APP_HTTP)
		w->s.weak = 0; /* Redis has a GET too */
	/* It began with what looks like frames, but nothing else is known. */
	if (verdict == NM_APP_HTTP2 && w->s.stage == NM_STAGE_FIELDS && w->s.version) {
		w->s.stage = 0;
		return NM_NO;
	}
	/* A candidate may confirm the other end, and an unfinished match may be completed by the next packet. */
	if (w->s.weak || verdict == NM_MORE) {
		if (nm_keep(id) && verdict == NM_MORE)
			return NM_MORE;
	}
	if (verdict == NM_MORE)
		return NM_NO;
	return verdict ? verdict : w->s.weak ? NM_NO : NM_APP_UNKNOWN;
}

/*
 * For a side whose protocol was reported and may change to another: to TLS after SMTP's STARTTLS, for example. The new protocol
 * starts with a packet of its own.
 */
static __always_inline int nm_detect_next(struct __sk_buff *skb, struct nm_l7 *w, __u32 id)
{
	bool known = w->p.offset < NM_CONTINUES, waits = false;
	int verdict;

	if (!NM_WANTED(NM_APP_TLS))
		return NM_NO;
	if (!known)
		w->p.offset = 0;
	else if (nm_recall(id))
		waits = w->s.stage == NM_STAGE_NEXT || w->s.stage == NM_STAGE_TLS;
	if (!waits || !nm_advance(skb, id, 0)) {
		__builtin_memset(&w->s, 0, sizeof(w->s));
		w->s.base = w->p.offset;
		w->s.start = w->p.offset;
		w->s.stage = NM_STAGE_NEXT;
		nm_advance(skb, id, 0);
	}
	verdict = w->s.stage == NM_STAGE_TLS ? nm_tls_extensions(skb, id) : nm_detect_tls(skb, id);
	if (verdict != NM_MORE)
		w->s.stage = NM_STAGE_FIRST;
	if (known && (verdict == NM_MORE || waits))
		nm_keep(id);
	return verdict == NM_MORE ? NM_NO : verdict;
}

#define NM_IN_TURN 0x20000 /* it is the next piece of a stream */

static __always_inline int nm_detect_any(struct __sk_buff *skb, struct nm_l7 *w, __u32 id)
{
	int verdict;

	__builtin_memset(&w->s, 0, sizeof(w->s));
	if (w->p.protocol == IPPROTO_UDP) {
		w->p.offset = 0;
		nm_advance(skb, id, 0);
		verdict = nm_detect_datagram(skb, id);
		return verdict == NM_MORE ? NM_NO : verdict; /* the next datagram may decide, whatever this one is */
	}
	if (w->p.told)
		return nm_detect_next(skb, w, id);
	w->middle = w->p.offset == NM_MIDSTREAM;
	if (w->middle) {
		w->p.offset = 0;
		nm_advance(skb, id, 0);
		verdict = nm_detect_middle(skb, id);
		return verdict && verdict != NM_MORE ? verdict : nm_settle(w);
	}
	/* A retransmitted first segment starts over. */
	if (w->p.offset && !nm_recall(id)) {
		if (w->p.offset == NM_CONTINUES)
			return NM_NO;
		/* Without the bytes before, later ones mean nothing, except for gRPC. */
		verdict = NM_WANTED(NM_APP_GRPC) ? nm_http2_again(skb, id) : NM_NO;
		if (verdict == NM_MORE) {
			if (!nm_keep(id))
				return NM_NO;
			w->early = 1;
		} else if (verdict) {
			return verdict;
		} else if (!nm_leave(skb, id)) {
			return NM_NO;
		}
	}
	if (w->p.offset == NM_CONTINUES)
		w->p.offset = w->s.seen;
	return NM_IN_TURN;
}

#define NM_SECOND 2 /* in `busy`: the current payload is done; now comes one that had arrived too early */

/* Examines one payload. Returns as nm_detect, or NM_MORE if it is to be called again for another payload. */
__noinline int nm_detect_piece(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length = skb->len;
	int verdict = NM_IN_TURN;

	if (!w)
		return 0;
	if (w->busy != NM_SECOND) {
		if (w->p.at >= length || !w->p.length)
			return 0;
		w->marks = 0;
		w->busy = 1; /* a packet that interrupts this one leaves the window alone */
		nm_barrier();
		w->early = 0;
		w->there = length - w->p.at < w->p.length ? length - w->p.at : w->p.length;
		verdict = nm_detect_any(skb, w, id);
	}
	if (verdict == NM_IN_TURN) {
		if (w->p.offset + w->p.length > w->s.seen)
			w->s.seen = w->p.offset + w->p.length;
		verdict = nm_detect_stream(skb, w, id);
		if (verdict == NM_MORE && w->busy != NM_SECOND) {
			w->early = 1;
			w->busy = NM_SECOND;
			return NM_MORE;
		}
		if (verdict == NM_MORE)
			verdict = NM_NO;
	}
	if ((verdict & 0xff) == NM_APP_GRPC && !NM_WANTED(NM_APP_GRPC))
		verdict = NM_APP_HTTP2;
	if ((verdict & 0xff) == NM_APP_HTTP2 && !NM_WANTED(NM_APP_HTTP2))
		verdict = NM_APP_UNKNOWN;
	if (verdict >> 24 == NM_APP_HTTP2 && !NM_WANTED(NM_APP_HTTP2))
		verdict &= 0xffffff;
	if (verdict >> 24 == NM_APP_TLS && !NM_WANTED(NM_APP_TLS))
		verdict &= 0xffffff;
	nm_barrier();
	w->busy = 0;
	return verdict;
}

/*
 * The protocol of the connection of the payload in `nm_l7`, judging by what one end sends. 0: undecided, call again with the next
 * payload. Else enum nm_app in the low 8 bits, the version from bit 8 on, and from bit 24 on the protocol that the connection
 * changed to with the same packet.
 */
static __always_inline int nm_detect(struct __sk_buff *skb, __u32 id)
{
	int verdict = nm_detect_piece(skb, id);

	return verdict == NM_MORE ? nm_detect_piece(skb, id) : verdict;
}
