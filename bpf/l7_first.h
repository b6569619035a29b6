/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Which detectors the first bytes rule out. The code of a detector is rarely in the processor's caches, so even a call that ends in
 * NM_NO at once takes its time.
 */
#pragma once

#define NM_FIRST(app, could) ((could) ? NM_APP_BIT(app) : 0)
#define NM_CASELESS(b, letter) (((b) | 0x20) == (letter))

/* The protocols that what starts with byte `b` could be, as far as the detectors in nm_detect_start can tell. */
#define NM_COULD_BE(b)                                                                                        \
	(NM_FIRST(NM_APP_POSTGRES, (b) == 0 || (b) == 'S' || (b) == 'N' || (b) == 'G') |                      \
	 NM_FIRST(NM_APP_AMQP, (b) == 'A' || (b) == 1) |                                                      \
	 NM_FIRST(NM_APP_CASSANDRA,                                                                           \
		  (((b) & 0x7f) >= 3 && ((b) & 0x7f) <= 6) || ((b) & 0x7f) == 65 || ((b) & 0x7f) == 66) |     \
	 NM_FIRST(NM_APP_SSH, (b) == 'S') |                                                                   \
	 NM_FIRST(NM_APP_SMTP, (b) == '2' || (b) == '4' || (b) == '5' || NM_CASELESS(b, 'e') ||               \
				       NM_CASELESS(b, 'h') || NM_CASELESS(b, 'l')) |                          \
	 NM_FIRST(NM_APP_MEMCACHED, ((b) >= 'A' && (b) <= 'z') || (b) == 0x80 || (b) == 0x81) |               \
	 NM_FIRST(NM_APP_NATS, (b) == 'I' || (b) == '-' || (b) == '+' || NM_CASELESS(b, 'c') ||               \
				       NM_CASELESS(b, 'p')) |                                                 \
	 NM_FIRST(NM_APP_KAFKA, (b) <= NM_KAFKA_MOST >> 24) |                                                 \
	 NM_FIRST(NM_APP_MQTT, (b) == 0x10 || (b) == 0x20) |                                                  \
	 NM_FIRST(NM_APP_HTTP2, (b) == 'P' || (b) == 0) |                                                     \
	 NM_FIRST(NM_APP_TLS, ((b) & ~3) == 20) |                                                             \
	 NM_FIRST(NM_APP_HTTP, (b) >= 'A' && (b) <= 'Z'))

#define NM_COULD_BE_4(b) NM_COULD_BE(b), NM_COULD_BE((b) + 1), NM_COULD_BE((b) + 2), NM_COULD_BE((b) + 3)
#define NM_COULD_BE_16(b) NM_COULD_BE_4(b), NM_COULD_BE_4((b) + 4), NM_COULD_BE_4((b) + 8), NM_COULD_BE_4((b) + 12)
#define NM_COULD_BE_64(b) NM_COULD_BE_16(b), NM_COULD_BE_16((b) + 16), NM_COULD_BE_16((b) + 32), NM_COULD_BE_16((b) + 48)

static const __u32 nm_could_be[256] = { NM_COULD_BE_64(0), NM_COULD_BE_64(64), NM_COULD_BE_64(128), NM_COULD_BE_64(192) };

/* Protocols whose first byte is part of a length: the bytes after it tell more. */
static __always_inline __u32 nm_could_be_long(const struct nm_l7 *w)
{
	__u32 could = 0;

	if (w->s.have < 4)
		return NM_APP_BIT(NM_APP_MYSQL) | NM_APP_BIT(NM_APP_MONGODB);
	if (w->p.client == 1 ? nm_byte(w, 3) == 1 : !nm_be16(w, 2))
		could |= NM_APP_BIT(NM_APP_MYSQL);
	if (nm_byte(w, 3) <= NM_MONGO_MOST >> 24)
		could |= NM_APP_BIT(NM_APP_MONGODB);
	return could;
}

/* The same for what is in the window, which is not empty, and for the protocols that the table leaves out. */
static __always_inline __u32 nm_candidates(const struct nm_l7 *w)
{
	__u32 could = nm_could_be[nm_byte(w, 0)] | nm_could_be_long(w) | NM_APP_BIT(NM_APP_DNS);

	/* Redis: a line that starts with a letter is a request; replies start with a sign. */
	if (nm_from_client(w) || (nm_byte(w, 0) | 32) < 'a' || (nm_byte(w, 0) | 32) > 'z')
		could |= NM_APP_BIT(NM_APP_REDIS);
	return could;
}

/* Whether nm_prefix can find a prefix. */
static __always_inline bool nm_could_be_prefix(__u32 first)
{
	return first == 'P' || first == '\r' || first == 0 || first == 4 || first == 5;
}
