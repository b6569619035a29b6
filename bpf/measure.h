/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Times between packets of both directions: handshake, round trip, response. */
#pragma once

/* The packet is the first of a handshake, or of what passes for one; true if it was sent before. */
static __always_inline bool nm_measure_syn(struct nm_cpu *cpu, struct nm_pair *pair, struct nm_packet *p)
{
	bool open = pair->flags & NM_PAIR_OPENED && !(pair->flags & (NM_PAIR_DONE | NM_PAIR_CLOSED));
	__u8 side = p->side & 1;

	if (open && pair->isn_known >> side & 1 && pair->isn[side] == p->seq) {
		pair->flags |= NM_PAIR_RETRIED;
		return true;
	}
	if (open && nm_pair_client(pair) != side && !pair->answered) {
		/* Simultaneous open, RFC 9293 3.5: nobody answers. */
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

/* The answer to it; true if it was sent before. */
static __always_inline bool nm_measure_syn_ack(struct nm_cpu *cpu, struct nm_pair *pair, struct nm_packet *p)
{
	__u8 side = p->side & 1;
	__u64 ns;

	if (!(pair->flags & NM_PAIR_OPENED)) {
		/* The other direction takes another way. */
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
	}
	pair->isn[side] = p->seq;
	pair->isn_known |= 1 << side;
	return false;
}

/* The ACK that ends the handshake. Which SYN-ACK it answers is not known if that was repeated (Karn's rule). */
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
	if (connect != NM_NEVER) {
		nm_sample(p, NM_CONNECT, connect);
		pair->connect = connect < 0xffffffff ? connect : 0xffffffff;
	}
}

/* Start to wait for the ACK of what ends at `end`. */
static __always_inline void nm_probe(struct nm_cpu *cpu, struct nm_pair *pair, struct nm_packet *p, __u32 end)
{
	__u64 stamp = nm_stamp(cpu, pair, p);
	__u8 side = p->side & 1;

	pair->probe_time[side] = stamp;
	pair->probe[side] = (__u64)end << 32 | (__u32)stamp;
}

/* The ACK moves on from `before`: does it cover what the other side waits for? True if so. */
static __always_inline bool nm_covered(struct nm_pair *pair, struct nm_packet *p, __u32 before)
{
	__u8 peer = !p->side;
	__u64 probe = pair->probe[peer], stamp = pair->probe_time[peer], ns;
	__u32 end = probe >> 32;

	if (!probe || (__s32)(p->ack - end) < 0)
		return false;
	pair->probe[peer] = 0;
	if ((__s32)(end - before) <= 0 || (__u32)stamp != (__u32)probe)
		return false;
	ns = nm_since(stamp, p);
	if (ns != NM_NEVER)
		nm_sample(p, p->ack == end || p->payload ? NM_RTT_LONE : NM_RTT, ns);
	return true;
}

/* Sent again: an ACK may be of either (Karn's rule), or was held back by what was missing. */
static __always_inline void nm_void_probe(struct nm_pair *pair, struct nm_packet *p)
{
	__u8 side = p->side & 1;
	__u64 probe = pair->probe[side];

	if (probe && (__s32)((__u32)(probe >> 32) - p->seq) > 0)
		pair->probe[side] = 0;
}

/* The first packet with data since the other side sent: the time since that is a response, unless it is the client's. */
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
