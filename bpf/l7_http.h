/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* HTTP/1.0 and 1.1, RFC 9112. */
#pragma once

#define NM_TARGET_WINDOWS 32 /* of a request target in one packet: eight kilobytes, the usual limit of servers */

/* In the request target, which may be long: moves on to the version that ends the line. */
__noinline int nm_http_target(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 end;
	int is;

	if (!w)
		return NM_NO;
	w->s.stage = NM_STAGE_TARGET;
	for (int i = 0; i < NM_TARGET_WINDOWS; i++) {
		end = nm_run(id, 0, '!', 255); /* some clients do not escape bytes that are not ASCII */
		w->number = end < w->s.have; /* the target ends here */
		nm_advance(skb, id, end);
		if (w->number)
			break;
		if (!w->s.have)
			return NM_MORE;
	}
	is = NM_MATCH(w, 0, " HTTP/1.");
	if (is != NM_YES)
		return is;
	if (w->s.have > 8 && (nm_byte(w, 8) & ~1u) != '0')
		return NM_NO;
	is = nm_line_end(w, 9);
	if (is == NM_NO || is == NM_MORE)
		return is;
	if (w->s.flags) /* CONNECT: the tunnelled protocol follows, RFC 9110 9.3.6 */
		w->marks |= NM_GOES_ON;
	return NM_APP_HTTP;
}

/*
 * The protocol that a server switches to with a 101: the value of Upgrade, RFC 9110 7.8. Without that header the verdict waits
 * for the end of the headers or a full window.
 */
__noinline int nm_http_switched(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 at, first;
	int end;

	if (!w)
		return NM_NO;
	at = nm_find(id, 12, 0x2a757067, 0x20202020); /* LF, "upgrade", in any case */
	if (!at || nm_byte(w, at - 4) != '\n' || (nm_be32(w, at) | 0x20202020) != 0x72616465 || nm_byte(w, at + 4) != ':')
		return w->s.have == NM_WINDOW || nm_find(id, 12, 0x0d0a0d0a, 0) ? NM_APP_HTTP : NM_MORE;
	at = nm_run(id, at + 5, ' ', ' ');
	end = nm_line(id, at);
	if (end == NM_NO || end == NM_MORE)
		return end == NM_MORE ? NM_MORE : NM_APP_HTTP;
	first = nm_be32(w, at) | 0x20202020;
	if (first >> 8 == 0x683263)
		return NM_APP_HTTP | NM_BECAME(NM_APP_HTTP2);
	if (first == 0x77656273)
		return NM_APP_HTTP | NM_BECAME(NM_APP_WEBSOCKET);
	if (first >> 8 == 0x746c73) /* RFC 2817 */
		w->marks |= NM_GOES_ON;
	return NM_APP_HTTP;
}

/* Runs after other detectors because it moves the window. */
__noinline int nm_detect_http(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 i;
	int is;

	if (!w)
		return NM_NO;
	is = NM_MATCH(w, 0, "HTTP/1.");
	if (is == NM_MORE)
		return is;
	if (is == NM_YES) {
		/* Version, SP, three digits (not all codes are registered), SP or the end of the line. */
		if (w->s.have < 13)
			return NM_MORE;
		if ((nm_byte(w, 7) & ~1u) != '0' || nm_byte(w, 8) != ' ' || nm_run(id, 9, '0', '9') != 12 ||
		    nm_byte(w, 9) < '1')
			return NM_NO;
		if (nm_byte(w, 12) != ' ' && nm_byte(w, 12) != '\r' && nm_byte(w, 12) != '\n')
			return NM_NO;
		return NM_MATCH(w, 9, "101") == NM_YES ? nm_http_switched(id) : NM_APP_HTTP;
	}
	/* A method: registered ones consist of capitals, with a hyphen in some of WebDAV. */
	i = nm_run(id, 0, 'A', 'Z');
	if (i == 7 && NM_MATCH(w, 0, "CONNECT") == NM_YES)
		w->s.flags = 1;
	if (i >= 3 && i < 16 && i < w->s.have && nm_byte(w, i) == '-')
		i = nm_run(id, i + 1, 'A', 'Z');
	if (i < 3 || i > 17)
		return i >= w->s.have && i < 3 ? NM_MORE : NM_NO;
	if (i + 1 >= w->s.have)
		return NM_MORE;
	if (nm_byte(w, i) != ' ' || nm_byte(w, i + 1) <= ' ' || nm_byte(w, i + 1) > '~')
		return NM_NO;
	nm_advance(skb, id, i + 1);
	return nm_http_target(skb, id);
}
