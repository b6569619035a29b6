/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * DNS (RFC 1035, over TCP too; multicast DNS and LLMNR, RFC 6762 and 4795, are DNS) and QUIC 1 and 2 (RFC 9000, 9369) with the
 * drafts before them.
 */
#pragma once

#define NM_DNS_LABELS 64
#define NM_DNS_QUESTIONS 8 /* examined in one message */
#define NM_DNS_RECORDS 8   /* likewise */

#define NM_DNS_QUERY 0
#define NM_DNS_IQUERY 1
#define NM_DNS_STATUS 2
#define NM_DNS_NOTIFY 4 /* RFC 1996 */
#define NM_DNS_UPDATE 5 /* RFC 2136 */
#define NM_DNS_STATEFUL 6 /* RFC 8490 */
#define NM_DNS_OPT 41
#define NM_MDNS 5353 /* RFC 6762 */

#define NM_QUIC_VERSIONS 16 /* of an offer that are examined */

/*
 * The index after the domain name at `at`, in the message that starts at `from`. Labels may hold any byte (RFC 2181 11), such as
 * spaces and UTF-8 in service names. A pointer leads back to an earlier name, so the first question has none.
 */
__noinline int nm_dns_name(__u32 id, __u32 at, __u32 from)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 begin = at;

	if (!w)
		return NM_NO;
	for (int i = 0; i < NM_DNS_LABELS; i++) {
		__u32 length = nm_byte(w, at), to;

		if (at >= w->s.have)
			return at < NM_WINDOW ? NM_MORE : NM_NO;
		if (!length)
			return at + 1;
		if (length >= 0xc0) {
			if (at + 1 >= w->s.have)
				return at + 1 < NM_WINDOW ? NM_MORE : NM_NO;
			to = (nm_be16(w, at) & 0x3fff) + from;
			return to >= from + 12 && to < begin ? (int)at + 2 : NM_NO;
		}
		at += 1 + length;
		if (length > 63 || at > NM_WINDOW)
			return NM_NO;
	}
	return NM_NO;
}

/* Types of records and questions that are in use, and those for private use; 32 occurs only in NetBIOS. */
static __always_inline bool nm_dns_type(__u32 type)
{
	return type && type != 32 &&
	       (type <= 68 || (type >= 99 && type <= 109) || type == 128 || (type >= 249 && type <= 264) ||
		(type >= 32768 && type <= 32769) || (type >= 65280 && type < 65535));
}

/* The top bit belongs to multicast DNS. */
static __always_inline bool nm_dns_class(__u32 class)
{
	class &= 0x7fff;
	return class == 1 || class == 3 || class == 4 || class == 254 || class == 255;
}

/* The index after the record at `at`: name, type, class, time to live, length, data. It may be far beyond the window. */
static __always_inline int nm_dns_record(const struct nm_l7 *w, __u32 id, __u32 at, __u32 from)
{
	int end = nm_dns_name(id, at, from);
	__u32 type;

	if (end == NM_NO || end == NM_MORE)
		return end;
	if (w->s.have < (__u32)end + 10)
		return NM_MORE;
	type = nm_be16(w, end);
	/* OPT has the size of a datagram as its class and the root as its name, RFC 6891. */
	if (!nm_dns_type(type) || (type == NM_DNS_OPT ? nm_byte(w, at) : !nm_dns_class(nm_be16(w, end + 2))))
		return NM_NO;
	return end + 10 + nm_be16(w, end + 8);
}

/* Is there another message at `next` (TCP)? Beyond the window there may be. */
static __always_inline bool nm_dns_follows(const struct nm_l7 *w, __u32 next)
{
	if (next + 2 > w->s.have)
		return !w->middle;
	if (nm_be16(w, next) < 12)
		return false;
	return next + 8 > w->s.have ? !w->middle : !(nm_be16(w, next + 4) & 0x40) && nm_be16(w, next + 6) <= 1;
}

/*
 * Checks the records after the questions of a message, as far as they are in the window: NM_YES if they match the header. `number`
 * is the index after the message, `letters` the number of records it should have.
 */
__noinline int nm_dns_records(__u32 id, __u32 at, __u32 from)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 i;
	int end;

	if (!w)
		return NM_NO;
	for (i = 0; i < NM_DNS_RECORDS && i < w->letters; i++) {
		/* The header of a truncated answer may count records that are missing. */
		if (at >= w->number)
			return at == w->number && (nm_be16(w, from + 2) & 0x8200) == 0x8200 && i ? NM_YES : NM_NO;
		if (at >= NM_WINDOW)
			return NM_YES;
		end = nm_dns_record(w, id, at, from);
		if (end == NM_NO)
			return NM_NO;
		if (end == NM_MORE) {
			/* The record belongs to the message, so it is beyond the window, or beyond what a capture holds. */
			if (nm_rest(w) < w->number && w->s.have < NM_WINDOW)
				return NM_MORE;
			return w->s.have < w->number && (i || nm_be16(w, from + 4)) ? NM_YES : NM_NO;
		}
		if ((__u32)end > w->number)
			return NM_NO;
		at = end;
	}
	return i < w->letters || at == w->number ? NM_YES : NM_NO;
}

/*
 * Stateful operations, over TCP only: an empty header, then values with type and length. Checks type and length of the first:
 * keep-alive, retry, padding, or one of push notifications (RFC 8765).
 */
static __always_inline bool nm_dns_stateful(const struct nm_l7 *w, __u32 at, __u32 length)
{
	__u32 type = nm_be16(w, at + 12);

	return w->p.protocol == IPPROTO_TCP && !(nm_be16(w, at + 2) & 0x07f0) && !nm_be32(w, at + 4) && !nm_be32(w, at + 8) &&
	       w->s.have >= at + 16 && ((type && type <= 3) || (type >= 0x40 && type <= 0x43)) &&
	       at + 16 + nm_be16(w, at + 14) <= length;
}

/*
 * Checks the flags and counts of a header. A request does not have the flags of an answer, except NOTIFY, which may be
 * authoritative. A request has records only if it updates, notifies, asks for the changes since a SOA (RFC 1995), or is multicast
 * DNS, where known answers, and the name a host wants, come with questions. Only multicast DNS has several questions in a
 * message. An answer without a question occurs where one question is answered in several messages.
 */
static __always_inline bool nm_dns_head(const struct nm_l7 *w, __u32 at)
{
	__u32 flags = nm_be16(w, at + 2), opcode = flags >> 11 & 15, questions = nm_be16(w, at + 4);
	bool multicast = w->p.protocol == IPPROTO_UDP && (w->p.sport == NM_MDNS || w->p.dport == NM_MDNS);

	if (flags & 0x40 || (flags & 15) > 11 || opcode > NM_DNS_UPDATE || opcode == 3)
		return false;
	if (questions > 1 && !multicast)
		return false;
	if (flags & 0x8000)
		return questions || (opcode == NM_DNS_QUERY && nm_be16(w, at + 6));
	if (!questions || nm_be16(w, at + 10) > 8 || flags & (opcode == NM_DNS_NOTIFY ? 0x028f : multicast ? 0x008f : 0x068f))
		return false;
	if (opcode >= NM_DNS_NOTIFY || multicast)
		return true;
	return !nm_be16(w, at + 6) && nm_be16(w, at + 8) <= 1;
}

/*
 * A message with its questions and the records it announces. Over TCP its length precedes it, and others may follow. Its fields are
 * read again after calls: keeping them across a call would need stack space, which is scarce.
 */
__noinline int nm_detect_dns(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 at, length;
	int end;

	if (!w)
		return NM_NO;
	at = w->p.protocol == IPPROTO_TCP ? 2 : 0;
	if (w->s.have < at + 12)
		return w->s.have < at || !at || nm_be16(w, 0) + at >= nm_rest(w) ? NM_MORE : NM_NO;
	length = at ? nm_be16(w, 0) + at : w->p.length;
	/* Over TCP another message may follow; in the middle of a connection it must be visible. */
	if (length < at + 12 || (at && length < nm_rest(w) && !nm_dns_follows(w, length)))
		return NM_NO;
	if ((nm_be16(w, at + 2) & 0x7800) == NM_DNS_STATEFUL << 11)
		return nm_dns_stateful(w, at, length) ? NM_APP_DNS : NM_NO;
	if (!nm_dns_head(w, at))
		return NM_NO;
	end = at + 12;
	/* A NetBIOS name, RFC 1001 14.1. */
	if (nm_byte(w, end) == 32 && !nm_byte(w, end + 33) && nm_run(id, end + 1, 'A', 'P') == (__u32)end + 33)
		return NM_NO;
	for (int i = 0; i < NM_DNS_QUESTIONS && i < (int)nm_be16(w, at + 4); i++) {
		end = nm_dns_name(id, end, at);
		if (end == NM_NO || (end == NM_MORE && (!i || length > nm_rest(w))))
			return end;
		if (end == NM_MORE)
			return NM_APP_DNS; /* cut off, after valid questions */
		if (w->s.have < (__u32)end + 4)
			return end + 4 > NM_WINDOW ? (i ? NM_APP_DNS : NM_NO) : NM_MORE;
		if (!nm_dns_type(nm_be16(w, end)) || !nm_dns_class(nm_be16(w, end + 2)))
			return NM_NO;
		end += 4;
	}
	if (nm_be16(w, at + 4) > NM_DNS_QUESTIONS)
		return NM_APP_DNS;
	/* An authority record in a query is the starting point of an incremental transfer (251, IXFR). */
	if (!(nm_be16(w, at + 2) & 0xf800) && nm_be16(w, at + 8) && !nm_be16(w, at + 6) && w->p.sport != NM_MDNS &&
	    w->p.dport != NM_MDNS && nm_be16(w, end - 4) != 251)
		return NM_NO;
	if ((__u32)end > length)
		return NM_NO;
	w->number = length;
	w->letters = nm_be16(w, at + 6) + nm_be16(w, at + 8) + nm_be16(w, at + 10);
	if (!w->letters)
		return (__u32)end == length ? NM_APP_DNS : NM_NO;
	/* A truncated answer may have none of the records it counts. */
	if ((__u32)end == length && (nm_be16(w, at + 2) & 0x8200) == 0x8200 && nm_be16(w, at + 4))
		return NM_APP_DNS;
	/* A record: name, type, class, time to live, length. */
	if (!(nm_be16(w, at + 2) & 0x200) && length - end < w->letters * 11)
		return NM_NO;
	end = nm_dns_records(id, end, at);
	return end == NM_YES ? NM_APP_DNS : end;
}

/* Reads the variable-length integer at `at` into `number`. Returns its size, or NM_NO if it is not complete. */
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

/* Version 1, version 2, or a draft that without decryption differs from version 1 only in its number. */
static __always_inline bool nm_quic_version(__u32 version)
{
	return version == 1 || version == 0x6b3343cf || (version >= 0xff000016 && version <= 0xff000022);
}

/* Does a version negotiation packet (RFC 9000 17.2.1) offer a known version? The window starts with its list. */
static __always_inline bool nm_quic_versions(const struct nm_l7 *w)
{
	bool known = false;

	if (!nm_rest(w) || nm_rest(w) & 3)
		return false;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < NM_QUIC_VERSIONS; i++) {
		if (i * 4 + 4 > w->s.have)
			break;
		if (nm_quic_version(nm_be32(w, i * 4)))
			known = true;
	}
	return known;
}

/*
 * A packet with a long header: its version, the connection ids, and lengths that fit the datagram. One datagram of a connection is
 * enough. Usually it is not known which end is the server, so a packet of either end is judged on its own.
 */
__noinline int nm_detect_quic(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 version, type, at, ids;
	int size;

	if (!w || w->s.have < 24 || !(nm_byte(w, 0) & 0x80))
		return NM_NO;
	version = nm_be32(w, 1);
	ids = nm_byte(w, 5);
	if (!version) {
		/* Ids of future versions may be longer (RFC 8999 5.1); a client's first id has at least 8 bytes. */
		nm_advance(skb, id, 6 + ids);
		at = nm_byte(w, 0);
		if (w->p.client == 1 || !w->s.have || ids + at < 8)
			return NM_NO;
		nm_advance(skb, id, 1 + at);
		return nm_quic_versions(w) ? NM_APP_QUIC : NM_NO;
	}
	if (!nm_quic_version(version) || !(nm_byte(w, 0) & 0x40) || ids > 20)
		return NM_NO;
	at = 6 + ids;
	ids = nm_byte(w, at);
	if (ids > 20)
		return NM_NO;
	at += 1 + ids;
	type = nm_byte(w, 0) >> 4 & 3; /* Initial, 0-RTT, Handshake, Retry; version 2 begins with Retry */
	if (version == 0x6b3343cf)
		type = (type - 1) & 3;
	/* Retry: a token and a tag of 16 bytes. The server chooses an id of its own. */
	if (type == 3)
		return w->p.client != 1 && ids && nm_rest(w) > at + 16 && nm_rest(w) < 1200 ? NM_APP_QUIC : NM_NO;
	if (!type) {
		size = nm_quic_number(id, at);
		/* Only a client sends a token; its datagram is padded, RFC 9000 14.1. */
		if (!size || (w->p.client == 0 ? w->number != 0 : nm_rest(w) < 1200) || w->number > 1200)
			return NM_NO;
		nm_advance(skb, id, at + size + w->number);
		at = 0;
	}
	size = nm_quic_number(id, at);
	/* Packet number, payload and tag: at least 20 bytes, RFC 9001 5.4.2. */
	if (!size || w->number < 20 || w->number > 65535 || at + size + w->number > nm_rest(w))
		return NM_NO;
	at += size + w->number;
	/* After an Initial, anything may pad the datagram; the receiver discards it (14.1). */
	if (at == nm_rest(w) || (!type && w->p.length >= 1200))
		return NM_APP_QUIC;
	/* Another packet in the same datagram. */
	nm_advance(skb, id, at);
	return w->s.have && nm_byte(w, 0) & 0x40 ? NM_APP_QUIC : NM_NO;
}
