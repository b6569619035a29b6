/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The window that the detectors of application protocols examine: a part of what one side of a connection sends, assembled from its
 * packets. If a detector needs more than one packet, the window waits in a small table for the next.
 */
#pragma once

struct nm_payload {
	__u64 flow;     /* identifies the connection: the same for both directions, never 0 */
	__u32 at;       /* offset of the payload in the packet */
	__u32 length;   /* its length in bytes; a truncated capture may hold fewer */
	__u32 offset;   /* of its first byte in this side's stream; NM_MIDSTREAM: not known; NM_CONTINUES: follows the last payload */
	__u16 sport;    /* host order */
	__u16 dport;
	__u8 protocol;  /* TCP or UDP */
	__u8 side;      /* 0 or 1: which end sends */
	__u8 client;    /* 1: the sender opened the connection, 0: the other end did; or NM_EITHER */
	__u8 told;      /* 1: the protocol of this side was reported and may change to another */
	__u32 isn;      /* of this side, to tell apart connections with the same ports; 0: not known */
};

#define NM_WINDOW 256
#define NM_WINDOWS 192 /* kept for the next packet; 108 KiB in all */

/* The position of a detector that processes the stream piece by piece; the window starts with the next piece. */
enum nm_stage {
	NM_STAGE_FIRST = 0, /* the window holds everything sent so far */
	NM_STAGE_TARGET,    /* HTTP/1: in the request target */
	NM_STAGE_TLS,       /* in the extensions of the ServerHello */
	NM_STAGE_FRAMES,    /* HTTP/2: at a frame header */
	NM_STAGE_FIELDS,    /* HTTP/2: in a header block */
	NM_STAGE_NEXT,      /* where another protocol than the one reported before may start */
};

struct nm_stream {
	__u32 base; /* offset in the stream of the window's first byte */
	__u32 have; /* bytes in the window */
	__u32 left; /* bytes of the piece the window is in */
	__u32 skip; /* of these, bytes that need not be examined */
	__u32 seen; /* offset in the stream of the first byte not seen yet */
	__u32 weak; /* bit n: may be enum nm_app n, though others start that way too; NM_REQUEST, NM_REPLY: as which; NM_SOCKS */
	__u8 stage;
	__u8 calls; /* packets examined so far without a verdict */
	__u8 flags; /* HTTP/2: flags of the current frame; HTTP/1: 1 for CONNECT */
	__u8 version; /* TLS: minor version in the ServerHello's own field; HTTP/2: 1 if what preceded the header block is unknown */
	__u32 start; /* offset in the stream at which the protocol starts: after a prefix, or after the protocol reported before */
};

/*
 * What is kept for the next packet. Shared by all CPUs, direct-mapped; a collision costs a verdict at most. The lock is not held
 * from one packet to the next: while one CPU works on a packet, another may have, or have already seen, the following one. If the
 * window does not reach a CPU's payload, that CPU leaves the beginning of the payload here; the CPU that puts the window back
 * picks it up. A window is never replaced by one that is less far on.
 */
struct nm_window {
	struct bpf_spin_lock lock;
	__u32 side;
	__u64 flow;
	__u32 isn;
	__u32 early_at;     /* offset in the stream of a payload that came too early */
	__u32 early_length; /* its length in bytes */
	__u32 early_have;   /* bytes of it in `early`; 0: none */
	struct nm_stream stream;
	__u8 bytes[NM_WINDOW];
	__u8 early[NM_WINDOW];
};

/* What a CPU works on. The second halves of the arrays stay unused: with them the verifier accepts the sum of two indices. */
struct nm_l7 {
	__u32 busy;
	__u32 there;  /* bytes of the payload that are in the packet */
	__u32 middle; /* the connection was first seen midway: the payload may be any part of it */
	__u32 number; /* the number the latest reader has read */
	__u32 letters; /* bit n: word n is not a number */
	__u32 marks; /* of the current payload: NM_SOCKS, NM_GOES_ON */
	__u32 early;   /* the payload is in `ahead`, not in the packet */
	__u32 candidates; /* bit n: may be enum nm_app n, judging by its first bytes */
	__u32 prefix;  /* the result of nm_prefix: there is no room for it on the stack */
	struct nm_payload p;
	struct nm_stream s;
	__u8 bytes[2 * NM_WINDOW];
	__u8 ahead[2 * NM_WINDOW];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NM_WINDOWS);
	__type(key, __u32);
	__type(value, struct nm_window);
} nm_windows SEC(".maps");

/* One for each CPU, as in maps.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nm_l7);
} nm_l7s SEC(".maps");

/*
 * Results of readers and detectors. The detectors are global functions: the verifier walks each once and assumes that it may return
 * any number. What they share is therefore in the map, found by `id`, the CPU.
 */
#define NM_NO 0
#define NM_YES 1
#define NM_MORE 0x10000 /* so far yes */

#define NM_APP_BIT(app) (1u << (app))
#define NM_BECAME(app) ((app) << 24) /* with a verdict: the protocol then changed to this one */
#define NM_GOES_ON (1u << 28) /* the reported protocol will give way to another */
#define NM_SOCKS (1u << 29)   /* SOCKS precedes the protocol */
#define NM_REQUEST (1u << 30)
#define NM_REPLY (1u << 31)

static __always_inline struct nm_l7 *nm_l7_of(__u32 id)
{
	return bpf_map_lookup_elem(&nm_l7s, &id);
}

/*
 * Limits an index to `size`, a power of two. The compiler must not drop the mask even if it can prove the index is smaller,
 * because the verifier forgets earlier comparisons.
 */
static __always_inline __u32 nm_index(__u32 i, const __u32 size)
{
	if (!__builtin_constant_p(i))
		asm("" : "+r"(i));
	return i & (size - 1);
}

static __always_inline __u32 nm_byte(const struct nm_l7 *w, __u32 i)
{
	return w->bytes[nm_index(i, NM_WINDOW)];
}

static __always_inline __u32 nm_be16(const struct nm_l7 *w, __u32 i)
{
	return nm_byte(w, i) << 8 | nm_byte(w, i + 1);
}

static __always_inline __u32 nm_be32(const struct nm_l7 *w, __u32 i)
{
	return nm_be16(w, i) << 16 | nm_be16(w, i + 2);
}

static __always_inline __u32 nm_le32(const struct nm_l7 *w, __u32 i)
{
	return nm_byte(w, i) | nm_byte(w, i + 1) << 8 | nm_byte(w, i + 2) << 16 | nm_byte(w, i + 3) << 24;
}

/* Bytes from the start of the window to the end of the payload: all that is there of a message that starts with the window. */
static __always_inline __u32 nm_rest(const struct nm_l7 *w)
{
	return w->p.offset + w->p.length - w->s.base;
}

static __always_inline bool nm_from_client(const struct nm_l7 *w)
{
	return w->p.client != 0;
}

static __always_inline bool nm_from_server(const struct nm_l7 *w)
{
	return w->p.client != 1;
}

/* Is `text` at `at`? */
static __always_inline int nm_match(const struct nm_l7 *w, __u32 at, const char *text, const __u32 length)
{
#pragma unroll
	for (__u32 i = 0; i < length; i++) {
		if (at + i >= w->s.have)
			return NM_MORE;
		if (nm_byte(w, at + i) != (__u8)text[i])
			return NM_NO;
	}
	return NM_YES;
}

/* A string literal, without its NUL. */
#define NM_MATCH(w, at, text) nm_match(w, at, text, sizeof(text) - 1)

/* Moves the window forward by `n` bytes and fills it from the packet; false if no byte was added. */
__noinline int nm_advance(struct __sk_buff *skb, __u32 id, __u32 n)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 from, size;

	if (!w)
		return NM_NO;
	if (n >= w->s.have) {
		w->s.have = 0;
	} else if (n) {
		const __u8 *source = w->bytes + (n & (NM_WINDOW - 1));

#pragma unroll
		for (int i = 0; i < NM_WINDOW; i += 8)
			*(__u64 *)(w->bytes + i) = *(const __u64 *)(source + i);
		w->s.have -= n;
	}
	w->s.base += n;
	from = w->s.base + w->s.have;
	if (from < w->p.offset || from - w->p.offset >= w->there || w->s.have >= NM_WINDOW)
		return NM_NO;
	from -= w->p.offset;
	size = w->there - from;
	if (size > NM_WINDOW - w->s.have)
		size = NM_WINDOW - w->s.have;
	/* For old verifiers: from 1 to the size of the window. */
	size = (size - 1) & (NM_WINDOW - 1);
	if (w->early) {
		/* Copies everything: the excess lies beyond the data of the window. */
		const __u8 *source = w->ahead + (from & (NM_WINDOW - 1));
		__u8 *to = w->bytes + (w->s.have & (NM_WINDOW - 1));

#pragma unroll
		for (int i = 0; i < NM_WINDOW; i += 8)
			*(__u64 *)(to + i) = *(const __u64 *)(source + i);
	} else if (bpf_skb_load_bytes(skb, w->p.at + from, w->bytes + (w->s.have & (NM_WINDOW - 1)), size + 1))
		return NM_NO;
	w->s.have += size + 1;
	return NM_YES;
}

static __always_inline struct nm_window *nm_window_of(__u64 flow, __u32 side)
{
	/* The two ends have adjacent slots, so neither displaces the other. */
	__u32 i = ((__u64)nm_fold(flow) * (NM_WINDOWS / 2) >> 32) * 2 + (side & 1);

	return bpf_map_lookup_elem(&nm_windows, &i);
}

static __always_inline bool nm_is_of(const struct nm_window *kept, const struct nm_l7 *w)
{
	return kept->flow == w->p.flow && kept->side == w->p.side && kept->isn == w->p.isn;
}

/* Offset in the stream of the next byte needed. */
static __always_inline __u32 nm_next(const struct nm_stream *s)
{
	return s->base + s->have;
}

static __always_inline void nm_take(struct nm_l7 *w, const struct nm_window *kept)
{
	w->s = kept->stream;
	__builtin_memcpy(w->bytes, kept->bytes, NM_WINDOW);
}

/* Puts the window into the table. True if the next payload is waiting there: it then becomes the current one. */
__noinline int nm_keep(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	struct nm_window *kept;
	bool more = false;
	__u32 next;

	if (!w)
		return false;
	kept = nm_window_of(w->p.flow, w->p.side);
	if (!kept)
		return false;
	next = nm_next(&w->s);
	bpf_spin_lock(&kept->lock);
	if (!nm_is_of(kept, w)) {
		kept->flow = w->p.flow;
		kept->side = w->p.side;
		kept->isn = w->p.isn;
		kept->early_have = 0;
		kept->stream.base = 0;
		kept->stream.have = 0;
	}
	if ((__s32)(next - nm_next(&kept->stream)) >= 0) {
		kept->stream = w->s;
		__builtin_memcpy(kept->bytes, w->bytes, NM_WINDOW);
		if (!w->early && next - kept->early_at < kept->early_have) {
			w->p.offset = kept->early_at;
			w->p.length = kept->early_length;
			w->there = kept->early_have;
			__builtin_memcpy(w->ahead, kept->early, NM_WINDOW);
			kept->early_have = 0;
			more = true;
		}
	}
	bpf_spin_unlock(&kept->lock);
	return more;
}

/* Takes the window out of the table; false if it is not there, or does not reach the payload. */
__noinline int nm_recall(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	struct nm_window *kept;
	bool known;

	if (!w)
		return false;
	kept = nm_window_of(w->p.flow, w->p.side);
	if (!kept)
		return false;
	bpf_spin_lock(&kept->lock);
	known = nm_is_of(kept, w) &&
		(w->p.offset == NM_CONTINUES || (__s32)(w->p.offset - nm_next(&kept->stream)) <= 0);
	if (known)
		nm_take(w, kept);
	bpf_spin_unlock(&kept->lock);
	return known;
}

/*
 * Leaves the beginning of a payload that came too early in the table; of two such payloads the earlier one stays. True if its
 * turn has come in the meantime: the window is then taken out.
 */
__noinline int nm_leave(struct __sk_buff *skb, __u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	struct nm_window *kept;
	bool known;
	__u32 size;

	if (!w)
		return false;
	kept = nm_window_of(w->p.flow, w->p.side);
	size = w->there < NM_WINDOW ? w->there : NM_WINDOW;
	if (!kept || !size)
		return false;
	/* For old verifiers: from 1 to the size of the window. */
	size = (size - 1) & (NM_WINDOW - 1);
	if (bpf_skb_load_bytes(skb, w->p.at, w->ahead, size + 1))
		return false;
	bpf_spin_lock(&kept->lock);
	known = nm_is_of(kept, w) && nm_next(&kept->stream) && (__s32)(w->p.offset - nm_next(&kept->stream)) <= 0;
	if (known) {
		nm_take(w, kept);
	} else {
		if (!nm_is_of(kept, w)) {
			kept->flow = w->p.flow;
			kept->side = w->p.side;
			kept->isn = w->p.isn;
			kept->early_have = 0;
			__builtin_memset(&kept->stream, 0, sizeof(kept->stream));
		}
		if (!kept->early_have || (__s32)(kept->early_at - w->p.offset) > 0 ||
		    (__s32)(kept->early_at + kept->early_have - nm_next(&kept->stream)) <= 0) {
			kept->early_at = w->p.offset;
			kept->early_length = w->p.length;
			kept->early_have = size + 1;
			__builtin_memcpy(kept->early, w->ahead, NM_WINDOW);
		}
	}
	bpf_spin_unlock(&kept->lock);
	return known;
}

/* The candidates (`weak`) in the window of the other end. */
static __always_inline __u32 nm_company(const struct nm_l7 *w)
{
	struct nm_window *kept = nm_window_of(w->p.flow, !w->p.side);
	__u32 weak = 0;

	if (!kept)
		return 0;
	bpf_spin_lock(&kept->lock);
	if (kept->flow == w->p.flow && kept->side == !w->p.side)
		weak = kept->stream.weak;
	bpf_spin_unlock(&kept->lock);
	return weak;
}
