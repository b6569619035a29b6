/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* DNS (RFC 1035, over TCP too) and QUIC 1 and 2 (RFC 9000, 9369). */
#pragma once

#define NM_DNS_LABELS 64

/* The index behind the domain name at `at`; no pointers, RFC 1035 has them in answers only. */
__noinline int nm_dns_name(__u32 id, __u32 at)
{
	struct nm_l7 *w = nm_l7_of(id);

	if (!w)
		return NM_NO;
	/* A name of NetBIOS, RFC 1001 14.1. */
	if (nm_byte(w, at) == 32 && !nm_byte(w, at + 33) && nm_run(id, at + 1, 'A', 'P') == at + 33)
		return NM_NO;
	for (int i = 0; i < NM_DNS_LABELS; i++) {
		__u32 length = nm_byte(w, at), end = at + 1 + length, run;

		if (at >= w->s.have)
			return at < NM_WINDOW ? NM_MORE : NM_NO;
		if (!length)
			return end;
		if (length > 63 || end > NM_WINDOW)
			return NM_NO;
		run = nm_run(id, at + 1, '!', '~');
		if (run < end)
			return run < w->s.have ? NM_NO : NM_MORE;
		at = end;
	}
	return NM_NO;
}

/* Types of records and questions in use; 32 is in NetBIOS only. */
static __always_inline bool nm_dns_type(__u32 type)
{
	return type && type != 32 && (type <= 66 || (type >= 99 && type <= 109) || (type >= 249 && type <= 262) || type == 32769);
}

/* Is another message of TCP at `next`? What is behind the window may be. */
static __always_inline bool nm_dns_follows(const struct nm_l7 *w, __u32 next)
{
	if (next + 2 > w->s.have)
		return !w->middle;
	if (nm_be16(w, next) < 12)
		return false;
	return next + 8 > w->s.have ? !w->middle : !(nm_be16(w, next + 4) & 0x40) && nm_be16(w, next + 6) <= 1;
}

/*
 * A message with one question, and room for all the records it says it has. Over TCP its length is in front. What is known of
 * it is read again behind the call: what is kept over one takes room on the stack, which is short.
 */
__noinline int nm_detect_dns(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 flags, records, class, first, length, at;
	int end;

	if (!w)
		return NM_NO;
	at = w->p.protocol == IPPROTO_TCP ? 2 : 0;
	if (w->s.have < at + 12)
		return w->s.have < at || !at || nm_be16(w, 0) + at >= nm_rest(w) ? NM_MORE : NM_NO;
	flags = nm_be16(w, at + 2);
	/* Standard query, reserved bit 0. */
	if (flags & 0x7840 || nm_be16(w, at + 4) != 1 || (flags & 15) > 10)
		return NM_NO;
	/* A query has no answers, no authorities, not an answer's flags; OPT and TSIG may be with it. */
	if (!(flags & 0x8000) && (flags & 0x068f || nm_be32(w, at + 6) || nm_be16(w, at + 10) > 2))
		return NM_NO;
	end = nm_dns_name(id, at + 12);
	if (end == NM_NO || end == NM_MORE)
		return end;
	if (w->s.have < (__u32)end + 4)
		return end + 4 > NM_WINDOW ? NM_NO : NM_MORE;
	class = nm_be16(w, end + 2) & 0x7fff; /* the upper bit is multicast DNS's, RFC 6762 */
	if (!nm_dns_type(nm_be16(w, end)) || (class != 1 && class != 3 && class != 4 && class != 254 && class != 255))
		return NM_NO;
	end += 4;
	length = at ? nm_be16(w, 0) + at : w->p.length;
	if ((__u32)end > length)
		return NM_NO;
	/* Over TCP another message may follow, in the middle of a connection one that is seen. */
	if (length < nm_rest(w) && (!at || !nm_dns_follows(w, length)))
		return NM_NO;
	/* Judged when it is whole; a longer one is an answer, whose query was. */
	if (length > nm_rest(w))
		return NM_MORE;
	length -= end;
	records = nm_be16(w, at + 6) + nm_be16(w, at + 8) + nm_be16(w, at + 10);
	if (!records)
		return length ? NM_NO : NM_APP_DNS;
	/* A record: name, type, class, time to live, length. */
	if (length < records * 11)
		return NM_NO;
	if (w->s.have < (__u32)end + 3 || end + 3 > NM_WINDOW)
		return NM_APP_DNS;
	first = nm_byte(w, end);
	if (!first)
		return nm_dns_type(nm_be16(w, end + 1)) ? NM_APP_DNS : NM_NO;
	return first < 64 || (first >= 0xc0 && (nm_be16(w, end) & 0x3fff) < (__u32)end - at) ? NM_APP_DNS : NM_NO;
}

/* The variable-length integer at `at` into `number`; its size, NM_NO if it is not there. */
__noinline int nm_quic_number(__u32 id, __u32 at)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 size;

	if (!w || at >= NM_WINDOW - 8)
		return NM_NO;
	size = 1u << (nm_byte(w, at) >> 6);
	if (w->s.have < at + size)
		return NM_NO;
	if (size == 1)
		w->number = nm_byte(w, at) & 0x3f;
	else if (size == 2)
		w->number = nm_be16(w, at) & 0x3fff;
	else
		w->number = size == 4 ? nm_be32(w, at) & 0x3fffffff : 0xffffffff; /* more than a datagram holds */
	return size;
}

/* Does a version negotiation packet, RFC 9000 17.2.1, offer a version that is known, among its first ones? */
__noinline int nm_quic_versions(__u32 id, __u32 at)
{
	struct nm_l7 *w = nm_l7_of(id);

	if (!w || nm_rest(w) <= at || (nm_rest(w) - at) & 3)
		return NM_NO;
	for (int i = 0; i < 8; i++) {
		__u32 version = nm_be32(w, at + i * 4);

		if (at + i * 4 + 4 > w->s.have)
			break;
		if (version == 1 || version == 0x6b3343cf)
			return NM_YES;
	}
	return NM_NO;
}

/* A packet with a long header: its version, the connection ids, and lengths that fit the datagram. */
__noinline int nm_detect_quic(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 version, type, at;
	int size;

	if (!w || w->s.have < 24 || !(nm_byte(w, 0) & 0x80) || nm_byte(w, 5) > 20)
		return NM_NO;
	at = 6 + nm_byte(w, 5);
	if (nm_byte(w, at) > 20)
		return NM_NO;
	at += 1 + nm_byte(w, at);
	version = nm_be32(w, 1);
	if (!version)
		return w->p.client == 0 && nm_quic_versions(id, at) ? NM_APP_QUIC : NM_NO;
	type = nm_byte(w, 0) >> 4 & 3; /* Initial, 0-RTT, Handshake, Retry; version 2 begins with Retry */
	if (version == 0x6b3343cf)
		type = (type - 1) & 3;
	else if (version != 1)
		return NM_NO;
	if (!(nm_byte(w, 0) & 0x40) || type == 3)
		return NM_NO;
	if (!type) {
		size = nm_quic_number(id, at);
		/* Only a client has a token; its datagram is filled up, RFC 9000 14.1. */
		if (!size || (w->p.client == 0 ? w->number != 0 : nm_rest(w) < 1200) || w->number > 1200)
			return NM_NO;
		nm_advance(skb, id, at + size + w->number);
		at = 0;
	}
	size = nm_quic_number(id, at);
	/* Packet number, payload and tag: 20 bytes at least, RFC 9001 5.4.2. */
	if (!size || w->number < 20 || w->number > 65535 || at + size + w->number > nm_rest(w))
		return NM_NO;
	at += size + w->number;
	if (at == nm_rest(w))
		return NM_APP_QUIC;
	/* Another packet in the same datagram. */
	nm_advance(skb, id, at);
	return w->s.have && nm_byte(w, 0) & 0x40 ? NM_APP_QUIC : NM_NO;
}
