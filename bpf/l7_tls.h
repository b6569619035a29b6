/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* TLS 1.0 to 1.3, RFC 8446, 5246. */
#pragma once

#define NM_TLS_RECORD (16384 + 2048) /* longest ciphertext, RFC 5246 6.2.3 */
#define NM_TLS_EXTENSIONS 32
#define NM_TLS_RECORDS 8

#define NM_TLS(minor) (NM_APP_TLS | (minor) << 8)

/* Is a record header at the start of the window? */
static __always_inline bool nm_tls_record(const struct nm_l7 *w)
{
	__u32 length = nm_be16(w, 3);

	return nm_byte(w, 0) >= 20 && nm_byte(w, 0) <= 23 && nm_byte(w, 1) == 3 && nm_byte(w, 2) >= 1 && nm_byte(w, 2) <= 3 &&
	       length && length <= NM_TLS_RECORD;
}

/* In the extensions of a ServerHello: one of them gives version 1.3 (RFC 8446 4.2.1). */
__noinline int nm_tls_extensions(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length;

	if (!w)
		return NM_NO;
	w->s.stage = NM_STAGE_TLS;
	for (int i = 0; i < NM_TLS_EXTENSIONS; i++) {
		if (!w->s.left)
			return NM_TLS(w->s.version);
		if (w->s.left < 4)
			return NM_NO;
		if (w->s.have < 4 || (w->s.have < 6 && w->s.left >= 6))
			return NM_MORE;
		length = nm_be16(w, 2);
		if (length + 4 > w->s.left)
			return NM_NO;
		if (nm_be16(w, 0) == 43 && length == 2)
			return nm_be16(w, 4) == 0x0304 ? NM_TLS(4) : NM_TLS(w->s.version);
		w->s.left -= length + 4;
		nm_advance(skb, id, length + 4);
	}
	return NM_TLS(0);
}

/* A ClientHello or ServerHello at the start of what a side sends; its lengths must agree. A server may send an alert instead. */
__noinline int nm_detect_tls(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, hello, session, ciphers, version;
	bool client;

	if (!w)
		return NM_NO;
	if (w->s.have < 5)
		return (!w->s.have || (nm_byte(w, 0) & ~3u) == 20) && (w->s.have < 2 || nm_byte(w, 1) == 3) ? NM_MORE : NM_NO;
	if (!nm_tls_record(w))
		return NM_NO;
	length = nm_be16(w, 3);
	if (nm_byte(w, 0) == 21) {
		if (!nm_from_server(w) || length != 2)
			return NM_NO;
		if (w->s.have < 7)
			return NM_MORE;
		/* Only one other alert may come with it, to close the connection. */
		if (nm_rest(w) != 7 && (nm_rest(w) != 14 || nm_byte(w, 7) != 21))
			return nm_rest(w) < 14 && nm_byte(w, 7) == 21 ? NM_MORE : NM_NO;
		return nm_byte(w, 5) >= 1 && nm_byte(w, 5) <= 2 && nm_byte(w, 6) <= 120 ? NM_TLS(0) : NM_NO;
	}
	if (nm_byte(w, 0) != 22)
		return NM_NO;
	if (w->s.have < 44)
		return NM_MORE;
	hello = nm_be32(w, 5) & 0xffffff;
	version = nm_be16(w, 9);
	session = nm_byte(w, 43);
	client = nm_byte(w, 5) == 1;
	if ((!client && nm_byte(w, 5) != 2) || (client ? !nm_from_client(w) : !nm_from_server(w)))
		return NM_NO;
	if (version < 0x0300 || version > 0x0303 || session > 32 || hello < 38 + session)
		return NM_NO;
	/* A server's record may hold further messages. A ClientHello may span several records, which may be small (RFC 8449). */
	if (client ? hello + 4 != length && (hello + 4 < length || length < 512) : hello + 4 > length)
		return NM_NO;
	if (!client) {
		if (version == 0x0300)
			return NM_NO;
		w->s.version = version & 0xff;
		if (w->s.have < 47 + session)
			return NM_MORE;
		if (nm_byte(w, 46 + session))
			return NM_NO;
		if (hello == 38 + session)
			return NM_TLS(w->s.version);
		if (w->s.have < 49 + session)
			return NM_MORE;
		w->s.left = nm_be16(w, 47 + session);
		if (w->s.left + 40 + session != hello)
			return NM_NO;
		nm_advance(skb, id, 49 + session);
		return nm_tls_extensions(skb, id);
	}
	if (w->s.have < 46 + session)
		return NM_MORE;
	/* Two bytes per cipher, then compression methods, then extensions to the end. */
	ciphers = nm_be16(w, 44 + session);
	if (ciphers < 2 || ciphers & 1 || 39 + session + ciphers > hello)
		return NM_NO;
	/* Recognised by now; the rest is checked as far as it is there. */
	nm_advance(skb, id, 46 + session + ciphers);
	if (!w->s.have)
		return NM_APP_TLS;
	length = nm_byte(w, 0);
	session += 38 + ciphers + length; /* up to the extensions */
	/* One method, null; some clients offered deflate as well. */
	if (!length || length > 3 || (w->s.have > length && nm_byte(w, length)) || session > hello)
		return NM_NO;
	if (session == hello)
		return NM_APP_TLS;
	if (w->s.have < length + 3)
		return NM_APP_TLS;
	return nm_be16(w, length + 1) + session + 2 == hello ? NM_APP_TLS : NM_NO;
}

/* In the middle of a connection: consecutive records, or one that ends with the payload. */
__noinline int nm_detect_tls_records(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);

	if (!w)
		return NM_NO;
	for (int i = 0; i < NM_TLS_RECORDS; i++) {
		__u32 size;

		if (w->s.have < 5 || !nm_tls_record(w))
			return NM_NO;
		size = nm_be16(w, 3) + 5;
		if (i || size == nm_rest(w))
			return NM_APP_TLS;
		if (size > nm_rest(w))
			return NM_NO;
		nm_advance(skb, id, size);
	}
	return NM_NO;
}
