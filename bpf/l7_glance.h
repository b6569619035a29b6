/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* A glance at the first bytes of a payload. */
#pragma once

#define NM_GLANCE 16 /* bytes */

static __always_inline bool nm_is_digit(__u8 byte)
{
	return byte >= '0' && byte <= '9';
}

static __always_inline bool nm_is_capital(__u8 byte)
{
	return byte >= 'A' && byte <= 'Z';
}

#define NM_THREE(text) ((text)[0] << 16 | (text)[1] << 8 | (text)[2])

/* Commands of memcached that are sure signs, by their first three letters. */
static __always_inline bool nm_is_memcached(const __u8 *b)
{
	__u32 three = NM_THREE(b);

	return three == NM_THREE("set") || three == NM_THREE("add") || three == NM_THREE("rep") || three == NM_THREE("app") ||
	       three == NM_THREE("pre") || three == NM_THREE("cas") || three == NM_THREE("inc") || three == NM_THREE("dec") ||
	       three == NM_THREE("get") || three == NM_THREE("gat");
}

/*
 * False if nm_detect_middle cannot recognise the payload in `nm_l7`, as its first bytes show for nearly all payloads. It takes a small
 * part of the time that the detectors take, and none of their memory.
 */
__noinline int nm_glance(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, big;
	__u8 b[NM_GLANCE];

	if (!w)
		return true;
	length = w->p.length;
	/* Where a port confirms a protocol, less is enough. */
	if (nm_apps_of_port(w->p.sport) | nm_apps_of_port(w->p.dport) || length < NM_GLANCE ||
	    bpf_skb_load_bytes(skb, w->p.at, b, NM_GLANCE))
		return true;
	big = (__u32)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
	/* Kafka and MongoDB: the length. DNS: the length, the flags, and the number of questions. */
	if (big + 4 == length || __builtin_bswap32(big) == length)
		return true;
	if (big >> 16 >= 12 && !(b[5] & 0x40) && (b[4] >> 3 & 15) <= NM_DNS_STATEFUL && !b[6] && b[7] <= 1)
		return true;
	switch (b[0]) {
	case 20 ... 23: /* TLS: the version */
		return b[1] == 3 && b[2] <= 3;
	case 0x80: /* memcached, binary: the length */
	case 0x81:
		return ((__u32)b[8] << 24 | b[9] << 16 | b[10] << 8 | b[11]) + 24 == length;
	case '*': /* Redis: a number */
	case '%':
	case '~':
	case '>':
	case '|':
	case '$':
	case '=':
	case '!':
		return nm_is_digit(b[1]);
	case '+': /* Redis: PONG, an error */
	case '-':
	case 'A' ... 'Z': /* HTTP, or the answer of memcached */
		return nm_is_capital(b[1]) && nm_is_capital(b[2]);
	}
	return nm_is_memcached(b);
}

#define NM_DNS_HEADER 12 /* bytes */

/* False if nm_detect_datagram cannot recognise the payload in `nm_l7`, likewise. */
__noinline int nm_glance_datagram(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 version, flags, questions, opcode;
	__u8 b[NM_DNS_HEADER];

	if (!w || bpf_skb_load_bytes(skb, w->p.at, b, NM_DNS_HEADER))
		return false;
	/* QUIC: a long header, and its version. */
	version = (__u32)b[1] << 24 | b[2] << 16 | b[3] << 8 | b[4];
	if (b[0] & 0x80 && (!version || nm_quic_version(version)))
		return true;
	/* DNS: the flags, and the number of questions. */
	flags = b[2] << 8 | b[3];
	opcode = flags >> 11 & 15;
	questions = b[4] << 8 | b[5];
	if (flags & 0x40 || (flags & 15) > 11 || opcode > NM_DNS_UPDATE || !(flags & 0x8000 || questions))
		return false;
	return questions <= 1 || w->p.sport == NM_MDNS || w->p.dport == NM_MDNS;
}
