/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Looks at payloads for the application protocol until it is settled. */
#pragma once

#define NM_LOOKS 8        /* payloads of a direction whose beginning was seen */
#define NM_LOOKS_MIDWAY 2 /* of other directions */
#define NM_LOOKS_DATAGRAMS 16 /* datagrams: the first may be STUN, say, or in a version the server does not know */
#define NM_LOOKS_HTTP2 64 /* payloads of HTTP/2 until the first HEADERS is found; most connections begin with one */
#define NM_LOOKS_NEXT 0x80 /* set in `looks`: a protocol was reported and may change to another; the other bits count the looks left */
#define NM_LOOKS_TOLD (NM_LOOKS_NEXT | 6)
#define NM_LOOKS_NAMED 255 /* a tunnel that was reported */

/*
 * Protocols that may continue with TLS in the same connection: SMTP and NATS if both ends agree, PostgreSQL and MySQL if the client
 * asks. The detectors of others set NM_GOES_ON.
 */
#define NM_MAY_CHANGE                                                                                  \
	(NM_APP_BIT(NM_APP_SMTP) | NM_APP_BIT(NM_APP_NATS) | NM_APP_BIT(NM_APP_POSTGRES) | NM_APP_BIT(NM_APP_MYSQL))

/* The HTTP/2 payload in `cpu->packet` may be a turn in the conversation; one that holds only control frames is not. */
__noinline int nm_turn_http2(struct __sk_buff *skb, __u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_packet *p;
	struct nm_delta *d;
	struct nm_pair *pair;

	if (!cpu)
		return 0;
	p = nm_packet_of(cpu);
	d = nm_delta_at(p->slot, p->v6);
	pair = nm_pair_again(p);
	if (!d || !pair || nm_http2_control(skb, p->headers, p->headers + p->payload))
		return 0;
	if (d->state & NM_HEARD)
		nm_turn(pair, p);
	pair->data[p->side & 1] = nm_stamp(cpu, pair, p);
	d->state &= ~NM_HEARD;
	return 0;
}

/* The payload just examined is HTTP/2, so the connection is: from now on its frames show what is a request or a response. */
static __always_inline void nm_is_http2(struct __sk_buff *skb, struct nm_delta *d, struct nm_pair *pair, struct nm_packet *p,
					bool first)
{
	bool known = pair->flags & NM_PAIR_HTTP2;

	pair->flags |= NM_PAIR_HTTP2;
	if (first)
		d->looks = NM_LOOKS_HTTP2;
	if (!known && nm_http2_control(skb, p->headers, p->headers + p->payload))
		pair->data[p->side & 1] = 0; /* it was no request */
}

/* Looks at the payload of the packet in `cpu->packet`. */
__noinline int nm_look(struct __sk_buff *skb, __u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_l7 *w = nm_l7_of(id);
	struct nm_payload *payload;
	struct nm_packet *p;
	struct nm_facts *f;
	struct nm_delta *d;
	struct nm_pair *pair;
	__u32 verdict;
	bool tcp;
	__u8 bit, app;

	if (!cpu || !w || w->busy)
		return 0;
	p = nm_packet_of(cpu);
	d = nm_delta_at(p->slot, p->v6);
	if (!d)
		return 0;
	pair = nm_pair_again(p); /* the caller of nm_look has already called nm_pair_of */
	payload = &w->p; /* not on the stack, where the verifier would follow every way of filling it */
	payload->at = p->headers;
	payload->length = p->payload;
	payload->offset = NM_MIDSTREAM;
	payload->protocol = p->v6 ? p->key6.protocol : p->key4.protocol;
	payload->sport = bpf_ntohs(p->v6 ? p->key6.sport : p->key4.sport);
	payload->dport = bpf_ntohs(p->v6 ? p->key6.dport : p->key4.dport);
	payload->flow = p->tag;
	payload->isn = 0;
	payload->side = p->side & 1;
	payload->client = NM_EITHER;
	payload->told = !!(d->looks & NM_LOOKS_NEXT);
	bit = 1 << payload->side;
	tcp = payload->protocol == IPPROTO_TCP;
	if (pair && tcp && p->turns)
		nm_turn_http2(skb, id);
	if (!d->looks)
		return 0;
	if (pair) {
		if (pair->looked & bit) {
			d->looks = 0;
			return 0;
		}
		/* Reported by another CPU. */
		if (pair->looked & NM_LOOKED_NEXT(bit) && !payload->told) {
			d->looks = NM_LOOKS_TOLD;
			payload->told = 1;
		}
		if (tcp && pair->isn_known & bit) {
			payload->isn = pair->isn[p->side & 1];
			payload->offset = p->tcp_flags & NM_TCP_SYN ? 0 : p->seq - payload->isn - 1;
		}
		/* Off the CPU that saw the beginning, an entry gets more looks. They end at 3, because 2 would grant them again. */
		if (pair->flags & NM_PAIR_HTTP2 && payload->offset != NM_MIDSTREAM && d->looks <= NM_LOOKS_MIDWAY + 1)
			d->looks = d->looks == NM_LOOKS_MIDWAY ? NM_LOOKS_HTTP2 : 1;
		payload->client = nm_pair_client(pair) == NM_EITHER ? NM_EITHER : nm_pair_client(pair) == payload->side;
	} else if (d->looks > NM_LOOKS_MIDWAY && !payload->told) {
		/* Another connection has the pair's slot, but this entry has seen the SYN and everything since. */
		payload->offset = d->looks == NM_LOOKS ? 0 : NM_CONTINUES;
		if (d->state & NM_OPENING)
			payload->client = !!(d->state & NM_SYN);
	}
	if (!tcp)
		payload->offset = 0;
	d->looks--;
	/* With more flows than the cache has entries, most payloads are such. The frames of HTTP/2 matter to its pair. */
	if (!pair && payload->offset == NM_MIDSTREAM && !payload->told && !nm_glance(skb, id))
		return 0;
	if (d->looks == NM_LOOKS_NEXT)
		d->looks = 0;
	if (tcp || nm_glance_datagram(skb, id)) {
		verdict = nm_detect(skb, id);
	} else {
		verdict = 0;
		w->marks = 0;
	}
	app = verdict & 0xff;
	if (pair && tcp &&
	    (app ? app == NM_APP_HTTP2 || app == NM_APP_GRPC :
		   (w->s.stage >= NM_STAGE_FRAMES && !w->s.version) ||
			   (w->middle && nm_http2_control(skb, p->headers, p->headers + p->payload))))
		nm_is_http2(skb, d, pair, p, w->s.calls == 1);
	/* That was the last look. */
	if (!verdict && !d->looks) {
		if (!tcp)
			verdict = NM_APP_UNKNOWN;
		else if (pair && !payload->told && !w->middle && pair->flags & NM_PAIR_HTTP2 && NM_WANTED(NM_APP_HTTP2))
			verdict = NM_APP_HTTP2;
	}
	if (!verdict)
		return 0;
	d->looks = 0;
	if (!payload->told && !(verdict >> 24) &&
	    (w->marks & NM_GOES_ON || NM_APP_BIT(verdict & 31) & NM_MAY_CHANGE ||
	     /* The answer to CONNECT. */
	     ((verdict & 0xff) == NM_APP_HTTP && pair && pair->looked & NM_LOOKED_NEXT(3 - bit)))) {
		d->looks = NM_LOOKS_TOLD;
		if (pair)
			pair->looked |= NM_LOOKED_NEXT(bit);
	} else if (pair) {
		pair->looked |= bit;
	}
	if ((verdict & 0xff) == NM_APP_UNKNOWN) {
		d->looks = 0;
		return 0;
	}
	f = nm_note(d, p);
	if (f) {
		if (f->app)
			f->app_next = verdict;
		else
			f->app = verdict;
		if (verdict >> 24)
			f->app_next = verdict >> 24;
		f->app_version = verdict >> 8;
		/* The QR bit (RFC 1035 4.1.1) shows which end asks; over TCP it comes after the length. */
		if (f->app == NM_APP_DNS)
			f->app_version = nm_byte(w, payload->protocol == IPPROTO_TCP ? 4 : 2) & 0x80 ? NM_ANSWERS : NM_ASKS;
	}
	return 0;
}
