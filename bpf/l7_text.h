/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Readers of text, and the protocols that their first line identifies: SSH, SMTP, NATS, AMQP. */
#pragma once

/* The index of the first byte from `from` on that is not between `low` and `high`, or the end of the data in the window. */
__noinline __u32 nm_run(__u32 id, __u32 from, __u32 low, __u32 high)
{
	struct nm_l7 *w = nm_l7_of(id);

	if (!w)
		return 0;
	for (__u32 i = 0; i < NM_WINDOW; i++) {
		__u32 b = nm_byte(w, from + i);

		if (from + i >= w->s.have || b < low || b > high)
			return from + i;
	}
	return NM_WINDOW;
}

/* The index after the first four bytes from `from` on that equal `text`; 0 if there are none. `fold` is ORed in: 0x20s ignore case. */
__noinline __u32 nm_find(__u32 id, __u32 from, __u32 text, __u32 fold)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 last = 0;

	if (!w)
		return 0;
	for (__u32 i = 0; i < NM_WINDOW; i++) {
		if (from + i >= w->s.have)
			break;
		last = last << 8 | nm_byte(w, from + i);
		if (i >= 3 && (last | fold) == text)
			return from + i + 1;
	}
	return 0;
}

/* One bit per byte: letters, digits, `-`, `.`, and `_` in domains or `:` in addresses; text excludes most control characters. */
static const __u64 nm_byte_kinds[3][4] = {
	{ 0x03ff600000000000, 0x07fffffe87fffffe },
	{ 0x07ff600000000000, 0x07fffffe07fffffe },
	{ 0xffffffff00002600, ~0ull, ~0ull, ~0ull },
};
#define NM_TEXT_BYTES 2

/* The index of the first byte that is not text. */
__noinline __u32 nm_text(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);

	if (!w)
		return 0;
	for (__u32 i = 0; i < NM_WINDOW; i++) {
		__u32 b = nm_byte(w, i);

		if (i >= w->s.have || !(nm_byte_kinds[NM_TEXT_BYTES][b >> 6] >> (b & 63) & 1))
			return i;
	}
	return NM_WINDOW;
}

/* The length of the CR LF at `at`, or of the bare LF that servers accept as well; NM_NO, NM_MORE. */
static __always_inline int nm_line_end(const struct nm_l7 *w, __u32 at)
{
	if (at >= w->s.have)
		return NM_MORE;
	if (nm_byte(w, at) == '\n')
		return 1;
	if (nm_byte(w, at) != '\r')
		return NM_NO;
	return at + 1 >= w->s.have ? NM_MORE : nm_byte(w, at + 1) == '\n' ? 2 : NM_NO;
}

/* The index of the end of a line without control characters, ASCII or not; NM_NO if another control character ends it. */
__noinline int nm_line(__u32 id, __u32 from)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 i = nm_run(id, from, ' ', 255);
	int end;

	if (!w || i >= NM_WINDOW)
		return NM_NO;
	end = nm_line_end(w, i);
	return end == NM_NO || end == NM_MORE ? end : i;
}

/* The index after a decimal number and its CR LF; the value is put into `number`. */
__noinline int nm_number_line(__u32 id, __u32 from)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 end;
	int crlf;

	if (!w)
		return NM_NO;
	w->number = 0;
	end = nm_run(id, from, '0', '9');
	if (end > NM_WINDOW || end < from || end - from > 9)
		return NM_NO;
	for (__u32 i = 0; i < 9; i++) {
		if (from + i >= end)
			break;
		w->number = w->number * 10 + (nm_byte(w, from + i) - '0');
	}
	crlf = NM_MATCH(w, end, "\r\n");
	if (crlf != NM_YES)
		return crlf;
	return end == from ? NM_NO : end + 2;
}

/*
 * Splits the line from `at` to `end` at single spaces. Returns the number of words, or NM_NO if one is empty or there are too many;
 * bit n of `letters` is set if the n-th word, counted from 1, is not a number. That is kept in the map: in a register, old verifiers
 * would follow every possible line.
 */
__noinline int nm_words(__u32 id, __u32 at, __u32 end)
{
	struct nm_l7 *w = nm_l7_of(id);

	if (!w)
		return NM_NO;
	w->letters = 0;
	for (int n = 1; n <= 8; n++) {
		__u32 next = nm_run(id, at, '!', 255);

		/* A space at the end does not count. */
		if (next == at && at == end && n > 1)
			return n - 1;
		if (next == at || next > end)
			return NM_NO;
		if (nm_run(id, at, '0', '9') != next)
			w->letters |= 1u << n;
		if (next == end)
			return n;
		at = next + 1;
	}
	return NM_NO;
}

/* Identification line, RFC 4253 4.2; 1.99: RFC 4253 5.1. */
__noinline int nm_detect_ssh(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int is, line, at = 8;

	if (!w)
		return NM_NO;
	is = NM_MATCH(w, 0, "SSH-2.0-");
	if (is == NM_NO) {
		is = NM_MATCH(w, 0, "SSH-1.99-");
		at = 9;
	}
	if (is != NM_YES)
		return is;
	line = nm_line(id, at);
	if (line == NM_NO || line == NM_MORE)
		return line;
	return line > at ? NM_APP_SSH : NM_NO;
}

/* A server may send other lines first (RFC 4253 4.2), which are searched as far as the window holds them. */
__noinline int nm_detect_ssh_behind(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 at, text;

	if (!w || !nm_from_server(w) || nm_be32(w, 0) == 0x5353482d)
		return NM_NO;
	at = nm_find(id, 1, 0x5353482d, 0); /* "SSH-" */
	text = nm_text(id);
	if (!at)
		return text < w->s.have ? NM_NO : NM_MORE;
	if (text < at || at < 5 || nm_byte(w, at - 5) != '\n')
		return NM_NO;
	if (NM_MATCH(w, at, "2.0-") == NM_NO && NM_MATCH(w, at, "1.99") == NM_NO)
		return NM_NO;
	text = nm_line(id, at);
	if (text == NM_NO || text == NM_MORE)
		return text;
	at += nm_byte(w, at) == '2' ? 4 : 5;
	return text > at && nm_byte(w, at - 1) == '-' ? NM_APP_SSH : NM_NO;
}

/* Does a greeting contain "SMTP" or "LMTP", in either case? */
static __always_inline bool nm_says_smtp(__u32 id)
{
	__u32 at = nm_find(id, 4, 0x736d7470, 0x20202020) ?: nm_find(id, 4, 0x6c6d7470, 0x20202020);

	return at && nm_text(id) >= at;
}

/* Is there a domain, or an address in brackets, from `from` to `end`? RFC 5321 4.1.2 has no underscores, but they are in use. */
__noinline int nm_host(__u32 id, __u32 from, __u32 end)
{
	struct nm_l7 *w = nm_l7_of(id);
	bool literal;

	if (!w || from + 1 > end)
		return NM_NO;
	literal = nm_byte(w, from) == '[';
	if (literal) {
		if (nm_byte(w, end - 1) != ']')
			return NM_NO;
		from++;
		end--;
	}
	for (__u32 i = 0; i < NM_WINDOW; i++) {
		__u32 b = nm_byte(w, from + i);

		if (from + i >= end)
			break;
		/* By a table: the verifier would follow every outcome of many comparisons. */
		if (!(nm_byte_kinds[literal][b >> 6] >> (b & 63) & 1))
			return NM_NO;
	}
	return from < end;
}

/*
 * RFC 5321 4.1.1.1, 4.2; LHLO: RFC 2033. Verbs may be in either case (RFC 5321 2.4). FTP greets with 220 too, so a greeting must
 * name SMTP; 554 and 421 reject the client.
 */
__noinline int nm_detect_smtp(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int is, end, most;
	__u32 at = 5;

	if (!w)
		return NM_NO;
	if (nm_from_server(w)) {
		is = NM_MATCH(w, 0, "220");
		if (is == NM_NO)
			is = NM_MATCH(w, 0, "554");
		if (is == NM_NO)
			is = NM_MATCH(w, 0, "421");
		if (is == NM_MORE)
			return is;
		if (is == NM_YES) {
			if (w->s.have < 4)
				return NM_MORE;
			if (nm_byte(w, 3) != ' ' && nm_byte(w, 3) != '-')
				return NM_NO;
			end = nm_line(id, 4);
			if (end == NM_NO || end == NM_MORE)
				return end;
			if (nm_byte(w, 0) == '2' && nm_says_smtp(id))
				return NM_APP_SMTP;
			w->s.weak |= NM_APP_BIT(NM_APP_SMTP) | NM_REPLY;
			/* A later line may name it. */
			return nm_byte(w, 0) == '2' && nm_byte(w, 3) == '-' ? NM_MORE : NM_NO;
		}
	}
	if (!nm_from_client(w))
		return NM_NO;
	/* Compared as numbers: matching each letter in both cases would multiply the paths of the verifier. */
	is = nm_be32(w, 0) | 0x20202020;
	if (w->s.have < 5) {
		is >>= 24;
		return is == 'e' || is == 'h' || is == 'l' ? NM_MORE : NM_NO;
	}
	if ((is != 0x65686c6f && is != 0x68656c6f && is != 0x6c686c6f) || nm_byte(w, 4) != ' ')
		return NM_NO;
	/* A domain, or an address in brackets. */
	end = nm_line(id, 5);
	if (end == NM_NO || end == NM_MORE)
		return end;
	at = nm_run(id, 5, ' ', ' ');
	most = nm_run(id, at, '!', '~');
	return nm_run(id, most, ' ', ' ') == (__u32)end && nm_host(id, at, most) ? NM_APP_SMTP : NM_NO;
}

/* INFO and CONNECT carry a JSON object; a client's words may be in either case. Other protocols have PING and PONG too. */
__noinline int nm_detect_nats(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 more = 0, word;
	int is;

	if (!w)
		return NM_NO;
	if (nm_from_server(w)) {
		is = NM_MATCH(w, 0, "INFO {\"");
		if (is == NM_YES)
			return NM_APP_NATS;
		more |= is;
		if (NM_MATCH(w, 0, "-ERR '") == NM_YES || NM_MATCH(w, 0, "+OK\r\n") == NM_YES)
			w->s.weak |= NM_APP_BIT(NM_APP_NATS) | NM_REPLY;
	}
	if (nm_from_client(w)) {
		word = nm_be32(w, 0) | 0x20202020;
		if (w->s.have > 4 && word == 0x636f6e6e && (nm_be32(w, 4) | 0x20202020) == 0x65637420) {
			__u32 at = nm_run(id, 7, ' ', ' ');

			/* An empty object, or a name in quotes. */
			if (at > 7 && at < w->s.have && nm_byte(w, at) == '{') {
				__u32 first = nm_byte(w, at + 1);

				if (at + 1 >= w->s.have)
					return NM_MORE;
				if (first == '"' || first == '}')
					return NM_APP_NATS;
			}
		}
		if (w->s.have < 10 && word >> 24 == 'c')
			more |= NM_MORE;
		if (w->s.have >= 6 && (word == 0x70696e67 || word == 0x706f6e67) && nm_be16(w, 4) == 0x0d0a)
			w->s.weak |= NM_APP_BIT(NM_APP_NATS) | NM_REQUEST;
	}
	if (NM_MATCH(w, 0, "PING\r\n") == NM_YES || NM_MATCH(w, 0, "PONG\r\n") == NM_YES)
		w->s.weak |= NM_APP_BIT(NM_APP_NATS) | (nm_from_client(w) ? NM_REQUEST : NM_REPLY);
	return more;
}

/*
 * The protocol header of AMQP 0-8, 0-9, 0-9-1, 1.0 (plain, TLS, SASL) and 0-10, or the Connection.Start with which a server of 0-9-1
 * answers it. After the header for TLS, TLS follows.
 */
__noinline int nm_detect_amqp(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 version;
	int is;

	if (!w)
		return NM_NO;
	is = NM_MATCH(w, 0, "AMQP");
	if (is == NM_MORE)
		return is;
	if (is == NM_YES) {
		if (w->s.have < 8)
			return NM_MORE;
		version = nm_be32(w, 4);
		if (version == 0x02010000)
			w->marks |= NM_GOES_ON;
		return version == 0x00000901 || version == 0x01010800 || version == 0x01010009 || version == 0x00010000 ||
				       version == 0x02010000 || version == 0x03010000 || version == 0x0101000a ?
			       NM_APP_AMQP :
			       NM_NO;
	}
	if (!nm_from_server(w))
		return NM_NO;
	/* Method frame on channel 0, its size, class 10, method 10, version 0-9 or 8-0. */
	is = NM_MATCH(w, 0, "\x01\x00\x00");
	if (is != NM_YES)
		return is;
	is = NM_MATCH(w, 7, "\x00\x0a\x00\x0a");
	if (is != NM_YES)
		return is;
	if (w->s.have < 13)
		return NM_MORE;
	if (nm_be16(w, 11) != 0x0009 && nm_be16(w, 11) != 0x0800)
		return NM_NO;
	/* 6 bytes, a table, two long strings; frames are limited until the ends have agreed on a size. */
	return nm_be32(w, 3) >= 18 && nm_be32(w, 3) <= 0x20000 ? NM_APP_AMQP : NM_NO;
}
