/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Prefixes of a protocol: the PROXY header of a load balancer (version 1 and 2), and the negotiation of SOCKS 4 and 5. What
 * follows a prefix is detected as if it came first.
 */
#pragma once

#define NM_PROXY_LINE 107   /* longest header of version 1, including CR LF */
#define NM_PROXY_MOST 4096  /* longest header of version 2, including TLS information */

#define NM_SURE (NM_MORE | NM_YES) /* a prefix whose end has not been seen yet */

/* The index after type, address and port as in SOCKS 5, RFC 1928 4. */
static __always_inline int nm_socks_address(const struct nm_l7 *w, __u32 at)
{
	if (at + 1 >= w->s.have)
		return NM_MORE;
	switch (nm_byte(w, at)) {
	case 1:
		return at + 7;
	case 3:
		return nm_byte(w, at + 1) ? at + 4 + nm_byte(w, at + 1) : NM_NO;
	case 4:
		return at + 19;
	}
	return NM_NO;
}

/* The index after the request of a SOCKS 4, 4a or 5 client. Password authentication (RFC 1929) is supported, GSS-API is not. */
__noinline int nm_socks_request(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 at, methods;

	if (!w)
		return NM_NO;
	methods = nm_byte(w, 1);
	if (nm_byte(w, 0) == 4) {
		if (w->s.have > 1 && methods != 1)
			return NM_NO;
		if (w->s.have < 9)
			return NM_MORE;
		if (!nm_be16(w, 2) || !nm_be32(w, 4))
			return NM_NO;
		at = nm_run(id, 8, ' ', '~');
		if (at < w->s.have && nm_byte(w, at))
			return NM_NO;
		/* An address that starts with three zeros means that a name follows (4a). */
		if (nm_be32(w, 4) < 256 && at < w->s.have) {
			methods = at + 1;
			at = nm_run(id, methods, '!', '~');
			if (at < w->s.have && (at == methods || nm_byte(w, at)))
				return NM_NO;
		}
		return at < w->s.have ? at + 1 : NM_MORE;
	}
	if (w->s.have < 2)
		return NM_MORE;
	if (!methods || methods > 8)
		return NM_NO;
	at = nm_run(id, 2, 0, 9);
	if (at < 2 + methods && at < w->s.have)
		return NM_NO;
	at = 2 + methods;
	if (nm_byte(w, at) == 1 && at < w->s.have) {
		at += 2 + nm_byte(w, at + 1);
		if (at >= w->s.have)
			return NM_MORE;
		at += 1 + nm_byte(w, at);
	}
	if (at + 3 >= w->s.have)
		return NM_MORE;
	if (nm_byte(w, at) != 5 || nm_byte(w, at + 1) != 1 || nm_byte(w, at + 2))
		return NM_NO;
	return nm_socks_address(w, at + 3);
}

/* The index after the server's answer, if it grants the request. */
__noinline int nm_socks_answer(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 at = 2;

	if (!w)
		return NM_NO;
	if (!nm_byte(w, 0))
		return w->s.have < 2 ? NM_MORE : nm_byte(w, 1) == 0x5a ? 8 : NM_NO;
	if (nm_byte(w, 0) != 5)
		return NM_NO;
	if (w->s.have < 2)
		return NM_MORE;
	if (nm_byte(w, 1) == 2) {
		if (w->s.have < 4)
			return NM_MORE;
		if (nm_byte(w, 2) != 1 || nm_byte(w, 3))
			return NM_NO;
		at = 4;
	} else if (nm_byte(w, 1)) {
		return NM_NO;
	}
	if (at + 3 >= w->s.have)
		return NM_MORE;
	if (nm_byte(w, at) != 5 || nm_byte(w, at + 1) || nm_byte(w, at + 2))
		return NM_NO;
	return nm_socks_address(w, at + 3);
}

/* The index after a PROXY header, version 1 or 2. */
__noinline int nm_proxy(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int is, end;

	if (!w)
		return NM_NO;
	is = NM_MATCH(w, 0, "PROXY ");
	if (is == NM_YES) {
		if (w->s.have < 10)
			return NM_SURE;
		if (NM_MATCH(w, 6, "TCP4 ") == NM_NO && NM_MATCH(w, 6, "TCP6 ") == NM_NO && NM_MATCH(w, 6, "UNKN") == NM_NO)
			return NM_NO;
		end = nm_line(id, 10);
		if (end == NM_MORE)
			return NM_SURE;
		return end == NM_NO || end + 2 > NM_PROXY_LINE || nm_byte(w, end) != '\r' ? NM_NO : end + 2;
	}
	if (is == NM_MORE)
		return is;
	is = NM_MATCH(w, 0, "\r\n\r\n\0\r\nQUIT\n");
	if (is != NM_YES)
		return is;
	if (w->s.have < 16)
		return NM_SURE;
	/* Version 2, LOCAL or PROXY; a family and a transport; then addresses and possibly more. */
	if ((nm_byte(w, 12) & ~1u) != 0x20 || nm_byte(w, 13) >> 4 > 3 || (nm_byte(w, 13) & 15) > 2 ||
	    nm_be16(w, 14) > NM_PROXY_MOST)
		return NM_NO;
	return 16 + nm_be16(w, 14);
}

/*
 * Moves the window past a prefix. NM_YES: there was one, complete; NM_SURE: more of it must follow; NM_MORE: this may be the
 * start of one.
 */
__noinline int nm_prefix(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int end = NM_NO;

	if (!w || !w->s.have)
		return NM_NO;
	if (nm_from_client(w) && (nm_byte(w, 0) == 'P' || nm_byte(w, 0) == '\r')) {
		end = nm_proxy(id);
	} else if (nm_from_client(w) && (nm_byte(w, 0) == 4 || nm_byte(w, 0) == 5)) {
		end = nm_socks_request(id);
		if (end != NM_NO)
			w->marks |= NM_SOCKS;
	}
	/* The few bytes of a server could be anything: the client must have requested SOCKS. */
	if (end == NM_NO && nm_from_server(w) && (nm_byte(w, 0) == 0 || nm_byte(w, 0) == 5) && nm_company(w) & NM_SOCKS)
		end = nm_socks_answer(id);
	if (end == NM_NO || end == NM_MORE || end == NM_SURE)
		return end;
	nm_advance(skb, id, end);
	w->s.start = w->s.base;
	return NM_YES;
}
