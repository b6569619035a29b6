/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* TCP: evaluates sequence numbers and flags. Ordinary segments take a short path; all others are examined closely. */
#pragma once

/* While the round-trip time of the connection is not known, a segment up to this late counts as reordered, not as lost. */
#define NM_REORDER_NS 3000000

/* Units around the time of the next probe in which ACKs are checked against the probe. */
#define NM_PROBE_WINDOW 16

/* The width of the largest window (RFC 7323), for when it is not known what was acknowledged before. */
#define NM_ANY_WINDOW (1u << 30)

static __always_inline bool nm_probe_due(const struct nm_delta *d, const struct nm_packet *p)
{
	return (__u16)(nm_units(p) - d->probed) >= nm_probe_every;
}

static __always_inline bool nm_answer_due(const struct nm_delta *d, const struct nm_packet *p)
{
	return nm_probe_every <= NM_PROBE_WINDOW || (__u16)(nm_units(p) - d->icmp) >= nm_probe_every - NM_PROBE_WINDOW;
}

/* Handles a segment that was sent before, or is late: a segment that fills a gap within a round trip was reordered. */
static __always_inline void nm_old_segment(struct nm_delta *d, struct nm_pair *pair, struct nm_packet *p)
{
	struct nm_facts *f = nm_note(d, p);
	__u64 late, limit = pair && pair->connect ? pair->connect : NM_REORDER_NS;

	if (!f)
		return;
	late = (__u64)((__u32)p->now - f->hole_at) * nm_tick_ns;
	/* `late` counts ticks: a further one may have begun. */
	if (f->hole_end != f->hole_start && (__s32)(p->seq - f->hole_start) >= 0 &&
	    (__s32)(p->seq - f->hole_end) < 0 && late <= limit + (nm_tick_ns > 1 ? nm_tick_ns : 0)) {
		f->out_of_order++;
		return;
	}
	f->retransmits++;
	if (pair)
		nm_void_probe(pair, p);
}

/* Evaluates the sequence number; true if the segment carries something new. */
static __always_inline bool nm_sequence(struct nm_delta *d, struct nm_pair *pair, struct nm_packet *p)
{
	__u8 flags = p->tcp_flags;
	__u32 length = p->payload + !!(flags & NM_TCP_SYN) + !!(flags & NM_TCP_FIN), end = p->seq + length;
	__s32 gap = p->seq - d->seq_end;
	struct nm_facts *f;

	if (!(d->state & NM_TRACKED)) {
		d->state |= NM_TRACKED;
		d->seq_end = end;
		return true;
	}
	if (!length)
		return false;
	if (gap == -1 && p->payload <= 1 && !(flags & (NM_TCP_SYN | NM_TCP_FIN)))
		return false; /* keep-alive, RFC 9293 3.8.4 */
	if (gap < 0) {
		nm_old_segment(d, pair, p);
		if ((__s32)(end - d->seq_end) > 0)
			d->seq_end = end;
		return false;
	}
	if (gap > 0) {
		f = nm_facts_of(p);
		if (f) {
			f->hole_start = d->seq_end;
			f->hole_end = p->seq;
			f->hole_at = p->now;
		}
	}
	d->seq_end = end;
	return true;
}

/* Evaluates the acknowledgement number. */
static __always_inline void nm_acknowledge(struct nm_delta *d, struct nm_pair *pair, struct nm_packet *p)
{
	__u8 flags = p->tcp_flags;
	__s32 advance = p->ack - d->ack;
	struct nm_facts *f;

	if (!(d->state & NM_ACKED)) {
		/* Earlier packets may have passed on another CPU: the pair knows whether this one is an answer. */
		d->state |= NM_ACKED | NM_HEARD;
		d->ack = p->ack;
		if (nm_latency && pair)
			nm_covered(pair, p, p->ack - NM_ANY_WINDOW);
	} else if (advance > 0) {
		/* If no probe was under way during the whole window, the next one is some time off. */
		if (nm_latency &&
		    (!pair || nm_covered(pair, p, d->ack) ||
		     (!pair->probe[!p->side] && (__u16)(nm_units(p) - d->icmp) >= nm_probe_every + NM_PROBE_WINDOW)) &&
		    !(d->cause & NM_STAMPED))
			d->icmp = nm_units(p);
		d->ack = p->ack;
		d->state |= NM_HEARD;
	} else if (!advance && !p->payload && p->window == d->kept.window && p->window && p->seq == d->seq_end &&
		   !(flags & (NM_TCP_SYN | NM_TCP_FIN))) {
		f = nm_note(d, p);
		if (f)
			f->duplicate_acks++;
	}
}

/* True for a SYN or SYN-ACK, which nm_shake handles. */
#define NM_SHAKES(flags) (((flags) & (NM_TCP_SYN | NM_TCP_RST)) == NM_TCP_SYN)

#define NM_CARRIES 1 /* data, or a FIN */
#define NM_FRESH 2   /* data or a FIN that were not sent before */

/*
 * Handles the SYN or SYN-ACK in `cpu->packet`; true if it was sent before. A segment is handled in several functions because a
 * single one would need more stack than Linux 5.10 allows, and jumps its compiler cannot handle.
 */
__noinline int nm_shake(__u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_packet *p;
	struct nm_facts *f;
	struct nm_delta *d;
	struct nm_pair *pair;

	if (!cpu)
		return 0;
	p = nm_packet_of(cpu);
	d = nm_delta_at(p->slot, p->v6);
	pair = nm_pair_of(cpu, p, true);
	if (!d || !pair)
		return 0;
	if (!(p->tcp_flags & NM_TCP_ACK ? nm_measure_syn_ack(cpu, pair, p) : nm_measure_syn(cpu, pair, p)))
		return 0;
	/* Another CPU saw the first: a timer sends the retransmission from whatever CPU it runs on. */
	if (!(d->state & NM_TRACKED)) {
		f = nm_note(d, p);
		if (f)
			f->retransmits++;
	}
	return 1;
}

/* Evaluates the numbers and flags of the packet in `cpu->packet`; `again`: its SYN was sent before. Returns NM_CARRIES and NM_FRESH. */
__noinline int nm_judge(__u32 id, __u32 again)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_packet *p;
	struct nm_facts *f;
	struct nm_delta *d;
	struct nm_pair *pair;
	bool fresh;
	__u8 flags;

	if (!cpu)
		return 0;
	p = nm_packet_of(cpu);
	d = nm_delta_at(p->slot, p->v6);
	if (!d)
		return 0;
	p->turns = 0;
	flags = p->tcp_flags;
	pair = NM_SHAKES(flags) ? nm_pair_again(p) : nm_pair_of(cpu, p, !(flags & NM_TCP_RST));
	if (flags & NM_TCP_RST) {
		f = nm_note(d, p);
		if (f)
			f->resets++;
		if (nm_latency)
			nm_measure_close(d, pair, p);
		if (pair)
			pair->flags |= NM_PAIR_CLOSED;
		/* Its sequence number need not be in order, RFC 9293 3.10.7. It does not abort the data it acknowledges. */
		if (flags & NM_TCP_ACK && (!(d->state & NM_ACKED) || (__s32)(p->ack - d->ack) > 0)) {
			d->state |= NM_ACKED | NM_HEARD;
			d->ack = p->ack;
		}
		return 0;
	}
	if (!p->window && !(flags & (NM_TCP_SYN | NM_TCP_FIN))) {
		f = nm_note(d, p);
		if (f)
			f->zero_windows++;
	}
	/* A single byte may be a keep-alive. */
	if (!(d->state & NM_TRACKED) && !again && (p->payload > 1 || flags & (NM_TCP_SYN | NM_TCP_FIN)))
		d->cause |= NM_UNJUDGED;
	/* Without a pair, only the entry can show whether the payloads follow one another without a gap. */
	if (!pair && p->payload && p->seq != d->seq_end && d->looks > NM_LOOKS_MIDWAY && d->looks <= NM_LOOKS)
		d->looks = NM_LOOKS_MIDWAY;
	fresh = nm_sequence(d, pair, p);
	if (flags & NM_TCP_ACK)
		nm_acknowledge(d, pair, p);
	d->kept.window = p->window;
	if (flags & NM_TCP_SYN) {
		d->state = flags & NM_TCP_ACK ? d->state & ~NM_SHAKING : d->state | NM_SHAKING;
		d->looks = nm_apps ? NM_LOOKS : 0;
	} else if (flags & NM_TCP_ACK) {
		/* Not only on the CPU that saw the SYN: a system call sends a client's SYN, an interrupt on any CPU its ACK. */
		d->state &= ~NM_SHAKING;
		if (nm_latency && pair)
			nm_measure_ack(pair, p);
	}
	return p->payload || flags & NM_TCP_FIN ? NM_CARRIES | (fresh ? NM_FRESH : 0) : 0;
}

/* Relates the data of the packet in `cpu->packet` to the conversation; true if the payload is to be looked at. */
__noinline int nm_converse(__u32 id, __u32 fresh)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_packet *p;
	struct nm_delta *d;
	struct nm_pair *pair;

	if (!cpu)
		return 0;
	p = nm_packet_of(cpu);
	d = nm_delta_at(p->slot, p->v6);
	if (!d)
		return 0;
	pair = nm_pair_again(p);
	if (nm_latency && pair && fresh)
		nm_follow_probe(pair, p);
	/* The data that the SYN-ACK refused are sent again: the request starts only now. */
	if (nm_latency && pair && !fresh && p->payload && pair->flags & NM_PAIR_REFUSED && nm_pair_client(pair) == p->side) {
		pair->flags &= ~NM_PAIR_REFUSED;
		pair->data[p->side & 1] = nm_stamp(cpu, pair, p);
	}
	if (p->payload && fresh) {
		bool http2 = pair && pair->flags & NM_PAIR_HTTP2, turn = d->state & NM_HEARD;

		d->cause = p->payload <= NM_ALERT ? d->cause | NM_SHORT : d->cause & ~NM_SHORT;
		if (nm_latency && pair) {
			if (http2)
				p->turns = turn || p->tcp_flags & NM_TCP_PSH;
			else if (turn)
				nm_turn(pair, p);
			if (!http2 && (turn || p->tcp_flags & (NM_TCP_PSH | NM_TCP_SYN)))
				pair->data[p->side & 1] = nm_stamp(cpu, pair, p);
			if (nm_probe_due(d, p) && (nm_probe_every || !pair->probe[p->side & 1]) && !(p->tcp_flags & NM_TCP_SYN)) {
				nm_probe(cpu, pair, p, p->seq + p->payload);
				d->probed = nm_units(p);
			}
		} else if (nm_latency && nm_probe_due(d, p)) {
			d->probed = nm_units(p); /* until then the connection does without a pair: another has its slot */
		}
		if (!http2)
			d->state &= ~NM_HEARD;
	}
	/* The second FIN ends the connection. */
	if (nm_latency && p->tcp_flags & NM_TCP_FIN && (!pair || pair->flags & NM_PAIR_CLOSED))
		nm_measure_close(d, pair, p);
	if (pair && p->tcp_flags & NM_TCP_FIN)
		pair->flags |= NM_PAIR_CLOSED;
	return p->payload && (d->looks || p->turns);
}

/* Handles the segment in `cpu->packet`, which has these flags, in full; true if its payload is to be looked at. */
static __always_inline int nm_follow_closely(__u32 id, __u8 flags)
{
	__u32 again = NM_SHAKES(flags) ? nm_shake(id) : 0, told = nm_judge(id, again);

	return told & NM_CARRIES ? nm_converse(id, !!(told & NM_FRESH)) : 0;
}

/* Handles a segment of an existing entry. Most are just data in order that answer nothing, or an ACK that advances. */
static __always_inline bool nm_follow(struct __sk_buff *skb, struct nm_cpu *cpu, struct nm_delta *d, struct nm_packet *p)
{
	__u8 flags = p->tcp_flags;

	if ((d->state & (NM_TRACKED | NM_ACKED | NM_SHAKING)) == (NM_TRACKED | NM_ACKED) && p->seq == d->seq_end &&
	    (flags & (NM_TCP_FIN | NM_TCP_SYN | NM_TCP_RST | NM_TCP_ACK)) == NM_TCP_ACK && p->window) {
		if (p->payload) {
			if (p->ack == d->ack && !(d->state & NM_HEARD) && !(flags & NM_TCP_PSH) && !d->looks &&
			    !(nm_latency && nm_probe_due(d, p))) {
				d->seq_end = p->seq + p->payload;
				d->kept.window = p->window;
				return false;
			}
		} else if ((__s32)(p->ack - d->ack) > 0) {
			if (!(nm_latency && nm_answer_due(d, p))) {
				d->ack = p->ack;
				d->kept.window = p->window;
				d->state |= NM_HEARD;
				return false;
			}
		} else if (p->window != d->kept.window) {
			d->kept.window = p->window;
			return false;
		}
	}
	return flags && nm_follow_closely(nm_hand_over(skb, cpu, p), flags);
}
