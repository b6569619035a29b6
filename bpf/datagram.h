/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* UDP and ICMP echo: who answers whom, and how long it takes. */
#pragma once

/* After this many packets since the last record only the first of each tick is examined: it is a stream, not a conversation. */
#define NM_STREAM 64

/* Handles the UDP packet in `cpu->packet`; true if its payload is to be looked at. */
__noinline int nm_answer(__u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_packet *p;
	struct nm_pair *pair;
	struct nm_delta *d;

	if (!cpu)
		return 0;
	p = nm_packet_of(cpu);
	pair = nm_pair_of(cpu, p, true);
	d = nm_delta_at(p->slot, p->v6);
	if (pair && d) {
		/* Both ends may send within a tick: the times of the records do not show which was first. */
		if (!pair->isn_known)
			d->state |= NM_FIRST;
		pair->isn_known |= 1 << (p->side & 1);
	}
	if (nm_latency && pair) {
		nm_turn(pair, p);
		pair->data[p->side & 1] = nm_stamp(cpu, pair, p);
	}
	return d && d->looks && p->payload;
}

static __always_inline bool nm_datagram_hit(struct __sk_buff *skb, struct nm_cpu *cpu, const struct nm_delta *d,
					    struct nm_packet *p, __u32 last)
{
	return (d->packets <= NM_STREAM || (__u32)p->now != last) && nm_answer(nm_hand_over(skb, cpu, p));
}

/* RFC 792, RFC 4443: request and reply have the same identifier and sequence number. */
__noinline int nm_echo(__u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	__u8 type, request, reply, side;
	struct nm_packet *p;
	struct nm_pair *pair;
	__u64 ns;

	if (!cpu)
		return 0;
	p = nm_packet_of(cpu);
	type = p->icmp >> 8;
	request = p->v6 ? 128 : 8;
	reply = p->v6 ? 129 : 0;
	if (!nm_latency || (type != request && type != reply))
		return 0;
	pair = nm_pair_of(cpu, p, type == request);
	if (!pair)
		return 0;
	side = p->side & 1;
	if (type == request) {
		pair->data[side] = nm_stamp(cpu, pair, p);
		pair->echo[side] = p->seq;
	} else if (pair->data[!side] && pair->echo[!side] == p->seq) {
		ns = nm_since(pair->data[!side], p);
		pair->data[!side] = 0;
		if (ns != NM_NEVER)
			nm_sample(p, NM_ECHO, ns);
	}
	return 0;
}
