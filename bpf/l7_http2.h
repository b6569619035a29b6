/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * HTTP/2, RFC 9113, and gRPC, which is HTTP/2 whose first HEADERS has a content-type of application/grpc. The verdict waits for
 * that frame, through as many packets as it takes.
 */
#pragma once

#define NM_H2_FRAMES 8  /* examined in one packet */
#define NM_H2_FIELDS 48 /* header fields, likewise */
#define NM_H2_CALLS 60  /* packets without a verdict; nm_look examines a few more */
#define NM_H2_CONTROLS 16 /* control frames examined in one payload */
#define NM_H2_FRAME 16384 /* largest frame until a side allows more, RFC 9113 4.2 */

#define NM_H2_HEADERS 1
#define NM_H2_SETTINGS 4
#define NM_H2_CONTINUATION 9
#define NM_H2_END_HEADERS 0x04
#define NM_H2_PADDED 0x08
#define NM_H2_PRIORITY 0x20

#define NM_HPACK_CONTENT_TYPE 31 /* in the static table, RFC 7541 A */

/*
 * Reads the HPACK integer (RFC 7541 5.1) at `at`, whose bits in the first byte are `mask`, into `number`. Returns its size, or
 * NM_NO if it is not complete or is larger than any that makes sense here.
 */
__noinline int nm_hpack_number(__u32 id, __u32 at, __u32 mask)
{
	struct nm_l7 *w = nm_l7_of(id);

	if (!w || at + 4 > NM_WINDOW || at >= w->s.have)
		return NM_NO;
	w->number = nm_byte(w, at) & mask;
	if (w->number < mask)
		return 1;
	if (at + 1 >= w->s.have)
		return NM_NO;
	w->number += nm_byte(w, at + 1) & 0x7f;
	if (!(nm_byte(w, at + 1) & 0x80))
		return 2;
	if (at + 2 >= w->s.have || nm_byte(w, at + 2) & 0x80)
		return NM_NO;
	w->number += nm_byte(w, at + 2) << 7;
	return 3;
}

/* Is the name at `at`, of `number` bytes, Huffman-coded or not, "content-type"? */
static __always_inline bool nm_hpack_content_type(const struct nm_l7 *w, __u32 at, bool huffman)
{
	return huffman ? w->number == 9 && NM_MATCH(w, at, "\x21\xea\x49\x6a\x4a\xc9\xf5\x59\x7f") == NM_YES :
			 w->number == 12 && NM_MATCH(w, at, "content-type") == NM_YES;
}

/*
 * Is the value at `at` that of gRPC: "application/grpc", followed by nothing, "+" or ";"? grpc-web does not count. The 16 characters
 * happen to fill exactly 11 bytes of Huffman code.
 */
static __always_inline bool nm_hpack_grpc(const struct nm_l7 *w, __u32 at, bool huffman)
{
	__u32 next;

	if (huffman) {
		if (w->number < 11 || NM_MATCH(w, at, "\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64") != NM_YES)
			return false;
		next = nm_byte(w, at + 11);
		return w->number == 11 || next == 0xff || next == 0xfb;
	}
	if (w->number < 16 || NM_MATCH(w, at, "application/grpc") != NM_YES)
		return false;
	next = nm_byte(w, at + 16);
	return w->number == 16 || next == '+' || next == ';';
}

/*
 * Examines the header field at the start of the window. NM_YES: it is gRPC's content-type; NM_MORE: it is not complete; else NM_NO,
 * and `skip` is its size, or 0 if the search ends here because it is another content-type or malformed.
 */
__noinline int nm_hpack_field(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	bool content_type, huffman;
	__u32 first, at;
	int size;

	if (!w)
		return NM_NO;
	w->s.skip = 0;
	if (!w->s.have)
		return NM_MORE;
	first = nm_byte(w, 0);
	if (first & 0x80 || (first & 0xe0) == 0x20) { /* an indexed field, or a change of the table size */
		size = nm_hpack_number(id, 0, first & 0x80 ? 0x7f : 0x1f);
		if (!size)
			return w->s.have < 3 ? NM_MORE : NM_NO;
		w->s.skip = size;
		return NM_NO;
	}
	/* A literal: the name is an index or a literal as well. */
	size = nm_hpack_number(id, 0, first & 0x40 ? 0x3f : 0x0f);
	if (!size)
		return w->s.have < 3 ? NM_MORE : NM_NO;
	at = size;
	content_type = w->number == NM_HPACK_CONTENT_TYPE;
	if (!w->number) {
		huffman = nm_byte(w, at) & 0x80;
		size = nm_hpack_number(id, at, 0x7f);
		if (!size)
			return w->s.have < at + 3 ? NM_MORE : NM_NO;
		at += size;
		if (!w->number || w->number > 127)
			return NM_NO;
		if (w->s.have < at + w->number)
			return NM_MORE;
		content_type = nm_hpack_content_type(w, at, huffman);
		at += w->number;
	}
	huffman = nm_byte(w, at) & 0x80;
	size = nm_hpack_number(id, at, 0x7f);
	if (!size)
		return w->s.have < at + 3 ? NM_MORE : NM_NO;
	at += size;
	if (content_type) {
		if (at + w->number > w->s.left)
			return NM_NO;
		if (w->number < 128 && w->s.have < at + w->number)
			return NM_MORE;
		return nm_hpack_grpc(w, at, huffman);
	}
	w->s.skip = at + w->number;
	return NM_NO;
}

/* In a header block: `left` bytes of its frame remain, of which the first `skip` need not be examined. */
__noinline int nm_http2_fields(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int is;

	if (!w)
		return NM_NO;
	for (int i = 0; i < NM_H2_FIELDS; i++) {
		if (!w->s.left) {
			/* The block has no content-type. */
			if (w->s.flags & NM_H2_END_HEADERS)
				return NM_APP_HTTP2;
			if (w->s.have < 9)
				return NM_MORE;
			w->s.left = nm_be32(w, 0) >> 8;
			w->s.flags = nm_byte(w, 4);
			if (nm_byte(w, 3) != NM_H2_CONTINUATION || w->s.left > NM_H2_FRAME)
				return NM_APP_HTTP2;
			nm_advance(skb, id, 9);
			continue;
		}
		if (!w->s.skip) {
			is = nm_hpack_field(id);
			if (is == NM_YES)
				return NM_APP_GRPC;
			/* The missing bytes must be in this frame: implementations do not split the head of a field. */
			if (is == NM_MORE)
				return w->s.left > w->s.have && w->s.have < NM_WINDOW ? NM_MORE : NM_APP_HTTP2;
			if (!w->s.skip)
				return NM_APP_HTTP2;
		}
		if (w->s.skip > w->s.left) {
			w->s.skip -= w->s.left;
			is = w->s.left;
		} else {
			is = w->s.skip;
			w->s.skip = 0;
		}
		w->s.left -= is;
		nm_advance(skb, id, is);
	}
	return NM_APP_HTTP2;
}

/* At a frame header: moves on to the first HEADERS, and leaves the window in its header block. */
__noinline int nm_http2_frames(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, head, pad;

	if (!w)
		return NM_NO;
	w->s.stage = NM_STAGE_FRAMES;
	for (int i = 0; i < NM_H2_FRAMES; i++) {
		if (w->s.have < 9)
			return NM_MORE;
		length = nm_be32(w, 0) >> 8;
		w->s.flags = nm_byte(w, 4);
		if (length > NM_H2_FRAME || nm_byte(w, 5) & 0x80)
			return NM_APP_HTTP2;
		if (nm_byte(w, 3) != NM_H2_HEADERS) {
			nm_advance(skb, id, 9 + length);
			continue;
		}
		head = 0;
		pad = 0;
		if (w->s.flags & NM_H2_PADDED) {
			if (w->s.have < 10)
				return NM_MORE;
			head = 1;
			pad = nm_byte(w, 9);
		}
		if (w->s.flags & NM_H2_PRIORITY)
			head += 5;
		if (head + pad > length)
			return NM_APP_HTTP2;
		/* If the block continues in another frame, padding in between ends the search. */
		w->s.left = length - head - pad;
		w->s.skip = 0;
		w->s.stage = NM_STAGE_FIELDS;
		nm_advance(skb, id, 9 + head);
		return NM_MORE;
	}
	return NM_APP_HTTP2;
}

/* Does the window start with the header of a frame with which a payload that makes a call may begin? */
static __always_inline bool nm_http2_begins(const struct nm_l7 *w)
{
	__u32 length = nm_be32(w, 0) >> 8, flags = nm_byte(w, 4), stream = nm_be32(w, 5);

	switch (nm_byte(w, 3)) {
	case NM_H2_HEADERS:
		return length && length <= NM_H2_FRAME && !(flags & ~0x2d) && stream && !(stream >> 31);
	case NM_H2_CONTINUATION:
		return length && length <= NM_H2_FRAME && !(flags & ~NM_H2_END_HEADERS) && stream && !(stream >> 31);
	case NM_H2_SETTINGS:
		return !stream && length % 6 == 0 && flags <= 1;
	case 6: /* PING */
		return !stream && length == 8 && flags <= 1;
	case 8: /* WINDOW_UPDATE */
		return length == 4 && !flags;
	}
	return false;
}

/*
 * For a payload when it is not known what came before. Most payloads begin with a frame, and a HEADERS or CONTINUATION with gRPC's
 * content-type identifies gRPC by itself, whichever CPU sees it first and whatever was missed.
 */
static __always_inline int nm_http2_again(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int is = NM_NO;

	if (!w)
		return NM_NO;
	w->s.base = w->p.offset;
	nm_advance(skb, id, 0);
	if (w->s.have < 9 || !nm_http2_begins(w)) {
		is = NM_NO;
	} else if (nm_byte(w, 3) == NM_H2_CONTINUATION) {
		w->s.left = nm_be32(w, 0) >> 8;
		w->s.flags = nm_byte(w, 4);
		w->s.stage = NM_STAGE_FIELDS;
		nm_advance(skb, id, 9);
		is = NM_MORE;
	} else {
		is = nm_http2_frames(skb, id);
	}
	if (is == NM_MORE && w->s.stage == NM_STAGE_FIELDS)
		is = nm_http2_fields(skb, id);
	/* Only an unfinished header block is worth continuing. */
	w->s.version = is == NM_MORE && w->s.stage == NM_STAGE_FIELDS;
	if (w->s.version)
		return NM_MORE;
	w->s.stage = 0;
	return is == NM_APP_GRPC ? is : NM_NO;
}

/*
 * Do frames that are neither request nor response, such as SETTINGS, PING and WINDOW_UPDATE, fill the range from `at` to `end`?
 * Data of other frames do not look like that: each length must lead to the next frame header, and the last one to the end.
 */
__noinline int nm_http2_control(struct __sk_buff *skb, __u32 at, __u32 end)
{
	__u32 length, stream, word[3] = {};
	__u8 *head = (__u8 *)word;

	if (end - at >= 24 && !bpf_skb_load_bytes(skb, at, head, 8) && word[0] == bpf_htonl(0x50524920) &&
	    word[1] == bpf_htonl(0x2a204854))
		at += 24; /* "PRI * HT", the preface */
	for (int i = 0; i < NM_H2_CONTROLS; i++) {
		if (end - at < 9 || bpf_skb_load_bytes(skb, at, head, 9))
			return 0;
		length = head[0] << 16 | head[1] << 8 | head[2];
		stream = head[5] << 24 | head[6] << 16 | head[7] << 8 | head[8];
		switch (head[3]) {
		case 2: /* PRIORITY */
			if (length != 5)
				return 0;
			break;
		case 3: /* RST_STREAM */
		case 8: /* WINDOW_UPDATE */
			if (length != 4)
				return 0;
			break;
		case NM_H2_SETTINGS:
			if (stream || length % 6)
				return 0;
			break;
		case 6: /* PING */
			if (stream || length != 8)
				return 0;
			break;
		case 7:  /* GOAWAY */
		case 10: /* ALTSVC */
		case 12: /* ORIGIN */
		case 16: /* PRIORITY_UPDATE */
			if (stream)
				return 0;
			break;
		default:
			return 0;
		}
		if (length > end - at - 9)
			return 0;
		at += 9 + length;
		if (at == end)
			return 1;
	}
	return 0;
}

/* The preface of a client, RFC 9113 3.4. That of a server is SETTINGS, accepted here with up to 16 known parameters. */
__noinline int nm_detect_http2(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, parameter;
	int is;

	if (!w)
		return NM_NO;
	if (nm_from_client(w)) {
		is = NM_MATCH(w, 0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
		if (is == NM_MORE)
			return is;
		if (is == NM_YES) {
			nm_advance(skb, id, 24);
			return nm_http2_frames(skb, id);
		}
	}
	if (!nm_from_server(w))
		return NM_NO;
	is = NM_MATCH(w, 0, "\x00\x00");
	if (is != NM_YES)
		return is;
	is = NM_MATCH(w, 3, "\x04\x00\x00\x00\x00\x00");
	if (is != NM_YES)
		return is;
	length = nm_byte(w, 2);
	if (!length) {
		/* Almost only zeros: an acknowledgement or a window update must follow. */
		if (w->s.have < 18)
			return NM_MORE;
		if (nm_be16(w, 9) || nm_byte(w, 11) > 4 || (nm_byte(w, 12) != NM_H2_SETTINGS && nm_byte(w, 12) != 8) ||
		    nm_byte(w, 13) > 1 || nm_be32(w, 14) || (nm_byte(w, 12) == 8) != (nm_byte(w, 11) == 4))
			return NM_NO;
		nm_advance(skb, id, 9);
		return nm_http2_frames(skb, id);
	}
	if (length > 96)
		return NM_NO;
	if (w->s.have < 9 + length)
		return NM_MORE;
	for (__u32 i = 0; i < 16; i++) {
		if (i * 6 >= length)
			break;
		if (i * 6 + 6 > length)
			return NM_NO;
		parameter = nm_be16(w, 9 + i * 6);
		/* RFC 9113 6.5.2, 8441, 9218, and the one of gRPC. */
		if (!parameter || (parameter > 9 && parameter != 0xfe03))
			return NM_NO;
	}
	nm_advance(skb, id, 9 + length);
	return nm_http2_frames(skb, id);
}
