/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Message brokers with binary requests: Kafka and MQTT. */
#pragma once

#define NM_KAFKA_KEYS 93
#define NM_KAFKA_NEWER 2 /* future versions that are accepted */
#define NM_KAFKA_MOST (100 << 20) /* socket.request.max.bytes */

/* The newest version of each request in Kafka 4.1, by its key. */
static const __u8 nm_kafka_versions[128] = {
	13, 18, 11, 13, 7, 4, 8, 3, 10, 10, 6, 9, 4, 5, 5, 6, 5, 1, 4, 7, 6, 2, 6, 4, 5, 4, 5, 2, 5, 3, 3, 3, 4, 2, 2, 4, 2, 3,
	3, 2, 2, 3, 2, 0, 1, 1, 0, 0, 1, 1, 0, 0, 2, 1, 1, 2, 3, 2, 0, 1, 2, 0, 4, 1, 0, 0, 2, 0, 1, 1, 0, 0, 0, 0, 0, 0, 2, 1,
	1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
};

/* A request: size, key, version, correlation id, client id (a nullable string). Responses contain nothing to recognise them by. */
__noinline int nm_detect_kafka(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 size, key, version, length, rest;

	if (!w || !w->s.have || !nm_from_client(w) || nm_byte(w, 0) > NM_KAFKA_MOST >> 24)
		return NM_NO;
	if (w->s.have < 14)
		return NM_MORE;
	size = nm_be32(w, 0);
	key = nm_be16(w, 4);
	version = nm_be16(w, 6);
	length = nm_be16(w, 12);
	rest = nm_rest(w);
	if (size < 10 || size > NM_KAFKA_MOST || key >= NM_KAFKA_KEYS)
		return NM_NO;
	if (version > nm_kafka_versions[nm_index(key, 128)] + NM_KAFKA_NEWER || nm_be32(w, 8) >> 31)
		return NM_NO;
	/* Without a client id there is little to check: the size must fit, and only two requests are accepted. */
	if (length == 0xffff || !length)
		return size + 4 == rest && (key == 18 || key == 3) && size < 64 ? NM_APP_KAFKA : NM_NO;
	if (length > 240 || length + 10 > size)
		return NM_NO;
	if (w->s.have < 14 + length)
		return NM_MORE;
	if (nm_run(id, 14, ' ', '~') < 14 + length)
		return NM_NO;
	/* Longer than the payload: a batch of messages, recognised by its beginning. */
	if (size + 4 > rest)
		return w->middle ? NM_NO : NM_APP_KAFKA;
	if (size + 4 == rest)
		return NM_APP_KAFKA;
	/* Another request follows, whose size is no smaller than its header. */
	if (w->middle || size + 12 > NM_WINDOW)
		return NM_NO;
	if (w->s.have < size + 12)
		return NM_MORE;
	return nm_be32(w, size + 4) >= 10 && nm_be32(w, size + 4) < 1 << 20 &&
			       nm_be16(w, size + 8) < NM_KAFKA_KEYS && nm_be16(w, size + 10) <= 18 + NM_KAFKA_NEWER ?
		       NM_APP_KAFKA :
		       NM_NO;
}

/*
 * CONNECT, MQTT 3.1, 3.1.1 and 5: remaining length, protocol name and level, flags, keep alive. CONNACK is so short that it could
 * be coincidence.
 */
__noinline int nm_detect_mqtt(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, at, level, flags;
	int is;

	if (!w || !w->s.have)
		return NM_NO;
	if (nm_byte(w, 0) == 0x20 && nm_from_server(w)) {
		if (w->s.have < 4)
			return NM_MORE;
		/* Flags, reason; in version 5 properties. Another packet may follow. */
		length = nm_byte(w, 1);
		if ((length + 2 == nm_rest(w) || (length + 3 < w->s.have && nm_byte(w, length + 2) >= 0x30)) && length < 128 && nm_byte(w, 2) < 2 &&
		    (nm_byte(w, 1) == 2 ? nm_byte(w, 3) <= 5 : nm_byte(w, 4) + 3 == nm_byte(w, 1)))
			w->s.weak |= NM_APP_BIT(NM_APP_MQTT) | NM_REPLY;
		return NM_NO;
	}
	if (nm_byte(w, 0) != 0x10 || !nm_from_client(w))
		return NM_NO;
	if (w->s.have < 6)
		return NM_MORE;
	length = nm_byte(w, 1) & 0x7f;
	at = 2;
	/* Up to four bytes; only a single byte may be 0. Wills may be large. */
	if (nm_byte(w, 1) & 0x80) {
		length |= (nm_byte(w, 2) & 0x7f) << 7;
		at = 3;
		if (nm_byte(w, 2) & 0x80) {
			length |= (nm_byte(w, 3) & 0x7f) << 14;
			at = 4;
			if (nm_byte(w, 3) & 0x80) {
				length |= nm_byte(w, 4) << 21;
				at = 5;
			}
		}
		if (!nm_byte(w, at - 1))
			return NM_NO;
	}
	is = NM_MATCH(w, at, "\x00\x04MQTT");
	if (is == NM_NO) {
		is = NM_MATCH(w, at, "\x00\x06MQIsdp");
		if (is != NM_YES)
			return is;
		if (w->s.have < at + 12)
			return NM_MORE;
		level = nm_byte(w, at + 8);
		flags = nm_byte(w, at + 9);
		if ((level & 0x7f) != 3)
			return NM_NO;
		length -= 2;
	} else {
		if (is != NM_YES)
			return is;
		if (w->s.have < at + 10)
			return NM_MORE;
		level = nm_byte(w, at + 6);
		flags = nm_byte(w, at + 7);
		if ((level & 0x7f) != 4 && level != 5)
			return NM_NO;
	}
	/* Invalid: the reserved bit, quality of service 3, flags of a will without one. The length must include the client id's. */
	if (flags & 1 || (flags & 0x18) == 0x18 || (!(flags & 4) && flags & 0x38))
		return NM_NO;
	return length >= 12 && length < 1 << 28 ? NM_APP_MQTT : NM_NO;
}
