/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* HTTP/1.0 and 1.1, RFC 9112. */
#pragma once

#define NM_TARGET_WINDOWS 8 /* of a request target, in one packet: two kilobytes */

/* In the request target, which may be long: goes on to the version that ends the line. */
__noinline int nm_http_target(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 end;
	int is;

	if (!w)
		return NM_NO;
	w->s.stage = NM_STAGE_TARGET;
	for (int i = 0; i < NM_TARGET_WINDOWS; i++) {
		end = nm_run(id, 0, '!', '~');
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
	is = NM_MATCH(w, 9, "\r\n");
	return is == NM_YES ? NM_APP_HTTP : is;
}

/* The detector that comes last: it moves the window. */
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
		/* Version, SP, three digits, SP or CR. */
		if (w->s.have < 13)
			return NM_MORE;
		if ((nm_byte(w, 7) & ~1u) != '0' || nm_byte(w, 8) != ' ' || nm_run(id, 9, '0', '9') != 12 ||
		    nm_byte(w, 9) < '1' || nm_byte(w, 9) > '5')
			return NM_NO;
		return nm_byte(w, 12) == ' ' || nm_byte(w, 12) == '\r' ? NM_APP_HTTP : NM_NO;
	}
	/* A method; all that are registered are of capitals, but for a hyphen in some of WebDAV's. */
	i = nm_run(id, 0, 'A', 'Z');
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
