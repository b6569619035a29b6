/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Times between packets of opposite directions: handshake, round trip, response. */
#pragma once

/* Handles a SYN, or what looks like one; true if it was sent before. */
static __always_inline bool nm_measure_syn(struct nm_cpu *cpu, struct nm_pair *pair, struct nm_packet *p)
{
	bool open = pair->flags & NM_PAIR_OPENED && !(pair->flags & (NM_PAIR_DONE | NM_PAIR_CLOSED));
	__u8 side = p->side & 1;

	if (open && pair->isn_known >> side & 1 && pair->isn[side] == p->seq) {
		pair->flags |= NM_PAIR_RETRIED;
		return true;
	}
	if (open && nm_pair_client(pair) != side && !pair->answered) {
		/* Simultaneous open, RFC 9293 3.5: neither SYN answers the other. */
		pair->flags |= NM_PAIR_RETRIED;
	} else {
		__u64 tag = pair->tag;
		__u32 touched = pair->touched;

		__builtin_memset(pair, 0, sizeof(*pair));
		pair->tag = tag;
		pair->touched = touched;
		pair->flags = NM_PAIR_OPENED | (side ? NM_PAIR_CLIENT1 : 0);
		pair->opened = nm_stamp(cpu, pair, p);
	}
	pair->isn[side] = p->seq;
	pair->isn_known |= 1 << side;
	return false;
}

/* Handles a SYN-ACK; true if it was sent before. */
static __always_inline bool nm_measure_syn_ack(struct nm_cpu *cpu, struct nm_pair *pair, struct nm_packet *p)
{
	__u8 side = p->side & 1;
	__u64 ns;

	if (!(pair->flags & NM_PAIR_OPENED)) {
		/* The SYN was not seen: that direction takes another path. */
		pair->flags |= NM_PAIR_OPENED | (side ? 0 : NM_PAIR_CLIENT1);
	} else if (nm_pair_client(pair) == side) {
		pair->flags |= NM_PAIR_REPEATED; /* simultaneous open: both send one */
	} else if (pair->answered) {
		pair->flags |= NM_PAIR_REPEATED;
		return true;
	} else {
		pair->answered = nm_stamp(cpu, pair, p);
		ns = nm_since(pair->opened, p);
		if (nm_latency && ns != NM_NEVER && !(pair->flags & NM_PAIR_RETRIED))
			nm_sample(p, NM_HANDSHAKE_SERVER, ns);
		/* The server did not accept the data of the SYN (RFC 7413). */
		if (pair->data[!side] && p->ack == pair->isn[!side] + 1) {
			pair->data[!side] = 0;
			pair->flags |= NM_PAIR_REFUSED;
		}
	}
	pair->isn[side] = p->seq;
	pair->isn_known |= 1 << side;
	return false;
}

/* The time of the first SYN in the form that NM_CONNECT and NM_OPENED carry; 0: not known. */
static __always_inline __u64 nm_opened(const struct nm_pair *pair, const struct nm_packet *p)
{
	__u64 stamp = pair->opened;

	if (!stamp || stamp & NM_STAMP_HARDWARE || (stamp ^ nm_stamp_tag(p)) >> 48)
		return 0;
	return (stamp >> NM_OPENED_UNIT) << (64 - 18) >> (64 - 18 - NM_OPENED_SHIFT);
}

/* Handles the ACK that ends the handshake. If the SYN-ACK was repeated, the ACK may answer either (Karn's rule). */
static __always_inline void nm_measure_ack(struct nm_pair *pair, struct nm_packet *p)
{
	__u64 connect, client;

	if (pair->flags & NM_PAIR_DONE || nm_pair_client(pair) != p->side)
		return;
	pair->flags |= NM_PAIR_DONE;
	client = nm_since(pair->answered, p);
	if (client != NM_NEVER && !(pair->flags & NM_PAIR_REPEATED))
		nm_sample(p, NM_HANDSHAKE_CLIENT, client);
	connect = nm_since(pair->opened, p);
	if (connect < 1ull << NM_OPENED_SHIFT) {
		nm_sample(p, NM_CONNECT, connect | nm_opened(pair, p));
		pair->connect = connect < 0xffffffff ? connect : 0xffffffff;
	}
}

/* The sender closes or refuses. It sends no more data to probe, so the fields for the time of the next probe hold this time instead. */
static __always_inline void nm_measure_close(struct nm_delta *d, const struct nm_pair *pair, struct nm_packet *p)
{
	__u64 ns = nm_precise(p), opened;

	d->probed = ns;
	d->icmp = ns >> 16;
	d->cause |= NM_STAMPED;
	if (pair && p->tcp_flags & NM_TCP_RST && !(pair->flags & NM_PAIR_DONE) && nm_pair_client(pair) == !p->side) {
		opened = nm_opened(pair, p);
		if (opened)
			nm_sample(p, NM_OPENED, opened);
	}
}

/* The least payload of a full segment, in bytes: what fits the smallest MTU that IPv6 allows, less some options. */
#define NM_FULL_SEGMENT 1000

/* Size and flags of the probe's segments; 0 if they are not full. Two full ones are acknowledged at once (RFC 9293 3.8.6.3). */
static __always_inline __u16 nm_segment(const struct nm_packet *p)
{
	__u32 size = p->packets > 1 ? p->payload / p->packets : p->payload;

	if (size < NM_FULL_SEGMENT || size >= 1 << (16 - NM_SEGMENT_SHIFT))
		return 0;
	return size << NM_SEGMENT_SHIFT | (p->packets > 1 ? NM_SEGMENT_MANY : 0) |
	       (p->tcp_flags & NM_TCP_PSH ? NM_SEGMENT_PUSHED : 0);
}

/* The sender continues before its probe was acknowledged: an ACK that also covers this packet may have waited for it. */
static __noinline void nm_follow_probe(struct nm_pair *pair, struct nm_packet *p)
{
	__u8 side = p->side & 1;
	__u32 end = p->seq + p->payload + !!(p->tcp_flags & NM_TCP_FIN);
	__u64 ns;

	if (!pair->probe[side])
		return;
	ns = nm_since(pair->probe_time[side], p);
	pair->later[side] = (__u64)end << 32 | (ns < 0xffffffff ? ns : 0xffffffff);
}

/* Starts a probe: waits for the ACK of the data that ends at `end`. */
static __always_inline void nm_probe(struct nm_cpu *cpu, struct nm_pair *pair, struct nm_packet *p, __u32 end)
{
	__u64 stamp = nm_stamp(cpu, pair, p);
	__u8 side = p->side & 1;

	pair->later[side] = 0;
	pair->segment[side] = nm_segment(p);
	pair->probe_time[side] = stamp;
	pair->probe[side] = (__u64)end << 32 | (__u32)stamp;
}

/*
 * The ACK advances from `before`. Returns true if it covers the probe of the other side. A receiver may delay an ACK until a second
 * segment arrives or an answer can carry it. The time therefore starts at the latest segment the ACK covers, if that is known, and
 * the kind of the sample says how far the time can be trusted.
 */
static __always_inline bool nm_covered(struct nm_pair *pair, struct nm_packet *p, __u32 before)
{
	__u8 peer = !p->side;
	__u64 probe = pair->probe[peer], stamp, ns, kind;
	__u32 end = probe >> 32;
/* Read again each time: a local variable would take room on the stack. */
#define later pair->later[peer]
#define size pair->segment[peer]
	bool both;

	if (!probe || (__s32)(p->ack - end) < 0)
		return false;
	pair->probe[peer] = 0;
	if ((__s32)(end - before) <= 0)
		return false;
	stamp = pair->probe_time[peer]; /* not read earlier: it would be kept on the stack */
	if ((__u32)stamp != (__u32)probe)
		return false;
	ns = nm_since(stamp, p);
	both = later && (__s32)(p->ack - (__u32)(later >> 32)) >= 0;
	if (ns == NM_NEVER || (both && (__u32)later > ns))
		return true;
	if (both)
		ns -= (__u32)later;
	if (p->payload || p->tcp_flags & NM_TCP_FIN)
		kind = NM_RTT_WAITED;
	else if (p->ack == end)
		kind = size & NM_SEGMENT_MANY && end - before >= size >> NM_SEGMENT_SHIFT ? NM_RTT : NM_RTT_LONE;
	else if (size && p->ack - end >= size >> NM_SEGMENT_SHIFT && (both || !(size & NM_SEGMENT_PUSHED)))
		kind = NM_RTT;
	else
		kind = both ? NM_RTT_LONE : NM_RTT_WAITED;
	nm_sample(p, kind, ns);
	return true;
#undef later
#undef size
}

/* Cancels the probe after a retransmission: an ACK may answer either copy (Karn's rule), or the gap may have delayed it. */
static __always_inline void nm_void_probe(struct nm_pair *pair, struct nm_packet *p)
{
	__u8 side = p->side & 1;
	__u64 probe = pair->probe[side];

	if (probe && (__s32)((__u32)(probe >> 32) - p->seq) > 0)
		pair->probe[side] = 0;
}

/* The first data since the other side sent: the time in between is a response time, unless the sender is the client. */
static __always_inline void nm_turn(struct nm_pair *pair, struct nm_packet *p)
{
	__u8 side = p->side & 1;
	__u64 asked = pair->data[!side], ns;

	if (!asked)
		return;
	pair->data[!side] = 0;
	if (nm_pair_client(pair) == side)
		return;
	ns = nm_since(asked, p);
	if (ns != NM_NEVER)
		nm_sample(p, NM_RESPONSE, ns);
}
