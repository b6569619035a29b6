/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Readers of text, and the protocols whose first line tells them: SSH, SMTP, NATS, AMQP. */
#pragma once

/* The index of the first byte from `from` on that is not within `low` and `high`, or the end of what is there. */
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

/* The index of the CR LF that ends a line of printable characters; NM_NO if it does not end so. */
__noinline int nm_line(__u32 id, __u32 from)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 i = nm_run(id, from, ' ', '~');
	int end;

	if (!w || i >= NM_WINDOW)
		return NM_NO;
	end = NM_MATCH(w, i, "\r\n");
	return end == NM_YES ? i : end;
}

/* The index behind a decimal number and the CR LF that ends it; its value is `number`. */
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
 * Splits the line from `at` to `end` at single spaces. Returns how many words it has, NM_NO if one is empty or they are too many;
 * `letters` has bit n set if the n-th, from 1 on, is not a number. It is kept in the map: in a register, old verifiers would
 * follow every way to write the line.
 */
__noinline int nm_words(__u32 id, __u32 at, __u32 end)
{
	struct nm_l7 *w = nm_l7_of(id);

	if (!w)
		return NM_NO;
	w->letters = 0;
	for (int n = 1; n <= 8; n++) {
		__u32 next = nm_run(id, at, '!', '~');

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
	/* Some end the line with LF alone. */
	if (line == NM_NO) {
		int end = nm_run(id, at, ' ', '~');

		return end > at && end < NM_WINDOW && nm_byte(w, end) == '\n' ? NM_APP_SSH : NM_NO;
	}
	if (line == NM_MORE)
		return NM_MORE;
	return line > at ? NM_APP_SSH : NM_NO;
}

/* Is "SMTP" in the bytes up to `end`? */
__noinline int nm_says_smtp(__u32 id, __u32 end)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 last = 0;

	if (!w)
		return NM_NO;
	for (__u32 i = 4; i < NM_WINDOW; i++) {
		if (i >= end)
			break;
		last = last << 8 | nm_byte(w, i);
		if (last == 0x534d5450) /* in ASCII */
			return NM_YES;
	}
	return NM_NO;
}

/* A bit for each byte: letters, digits, `-`, `.`, and `_` in domains, `:` in addresses. */
static const __u64 nm_host_bytes[2][4] = {
	{ 0x03ff600000000000, 0x07fffffe87fffffe },
	{ 0x07ff600000000000, 0x07fffffe07fffffe },
};

/* A domain, or an address in brackets, from `from` to `end`? Underscores are not in RFC 5321 4.1.2, but in use. */
__noinline int nm_host(__u32 id, __u32 from, __u32 end)
{
	struct nm_l7 *w = nm_l7_of(id);
	bool literal;

	if (!w || from + 2 > end)
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
		/* By a table: of many comparisons the verifier follows every outcome. */
		if (!(nm_host_bytes[literal][b >> 6] >> (b & 63) & 1))
			return NM_NO;
	}
	return from < end;
}

/* RFC 5321 4.1.1.1, 4.2; LHLO: RFC 2033. FTP greets with 220 too, so a greeting must name SMTP. */
__noinline int nm_detect_smtp(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int is, end;

	if (!w)
		return NM_NO;
	if (nm_from_server(w)) {
		is = NM_MATCH(w, 0, "220");
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
			if (nm_says_smtp(id, end))
				return NM_APP_SMTP;
			w->s.weak |= NM_APP_BIT(NM_APP_SMTP) | NM_REPLY;
			return NM_NO;
		}
	}
	if (!nm_from_client(w))
		return NM_NO;
	is = NM_MATCH(w, 0, "EHLO ");
	if (is == NM_NO)
		is = NM_MATCH(w, 0, "HELO ");
	if (is == NM_NO)
		is = NM_MATCH(w, 0, "LHLO ");
	if (is != NM_YES)
		return is;
	/* A domain, or an address in brackets. */
	end = nm_line(id, 5);
	if (end == NM_NO || end == NM_MORE)
		return end;
	return nm_host(id, 5, end) ? NM_APP_SMTP : NM_NO;
}

/* INFO and CONNECT carry a JSON object. PING and PONG are words of others too. */
__noinline int nm_detect_nats(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 more = 0;
	int is;

	if (!w)
		return NM_NO;
	if (nm_from_server(w)) {
		is = NM_MATCH(w, 0, "INFO {\"");
		if (is == NM_YES)
			return NM_APP_NATS;
		more |= is;
	}
	if (nm_from_client(w)) {
		is = NM_MATCH(w, 0, "CONNECT {\"");
		if (is == NM_YES)
			return NM_APP_NATS;
		more |= is;
	}
	if (NM_MATCH(w, 0, "PING\r\n") == NM_YES || NM_MATCH(w, 0, "PONG\r\n") == NM_YES)
		w->s.weak |= NM_APP_BIT(NM_APP_NATS) | NM_REQUEST | NM_REPLY;
	return more;
}

/*
 * The protocol header of AMQP 0-9, 0-9-1, 1.0 (plain, TLS, SASL) and 0-10; Connection.Start of a server of 0-9-1 answers it.
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
		return version == 0x00000901 || version == 0x01010009 || version == 0x00010000 ||
				       version == 0x02010000 || version == 0x03010000 || version == 0x0101000a ?
			       NM_APP_AMQP :
			       NM_NO;
	}
	if (!nm_from_server(w))
		return NM_NO;
	/* Method frame on channel 0, its size, class 10, method 10, version 0-9. */
	is = NM_MATCH(w, 0, "\x01\x00\x00");
	if (is != NM_YES)
		return is;
	is = NM_MATCH(w, 7, "\x00\x0a\x00\x0a\x00\x09");
	if (is != NM_YES)
		return is;
	/* 6 bytes, a table, two long strings; frames are not larger before they were tuned. */
	return nm_be32(w, 3) >= 18 && nm_be32(w, 3) <= 0x20000 ? NM_APP_AMQP : NM_NO;
}
