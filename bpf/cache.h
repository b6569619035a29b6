/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The flow cache: a packet finds its entry, or makes one. */
#pragma once

#define NM_SYN_DATA 1460 /* bytes that a SYN may carry */

static __always_inline __u8 nm_protocol(const struct nm_packet *p, const __u32 key_size)
{
	return key_size == sizeof(struct nm_key6) ? p->key6.protocol : p->key4.protocol;
}

/* RST and ICMP errors are news: tell once, with all that came before. A full ring is no loss, the sweep comes later. */
static __always_inline void nm_tell(struct nm_delta *d, const struct nm_packet *p, bool v6)
{
	if (!(d->state & NM_URGED) && nm_report_entry(p->cpu, p->slot, v6, NM_URGENT))
		d->state |= NM_URGED;
}

static __always_inline void nm_start(struct nm_delta *d, const struct nm_packet *p)
{
	d->bytes = p->bytes;
	d->packets = p->packets;
	d->first = p->now;
	d->last = p->now;
	d->seq_end = 0;
	d->ack = 0;
	d->window = 0;
	d->probed = nm_units(p) - nm_probe_every; /* due */
	d->worth = 0;
	d->icmp = p->icmp;
	d->tcp_flags = p->tcp_flags;
	d->state = p->opening;
	d->looks = nm_apps ? NM_LOOKS_MIDWAY : 0;
}

/* The first packet of an entry; true if its payload is to be looked at. */
static __always_inline bool nm_begin(struct __sk_buff *skb, struct nm_cpu *cpu, struct nm_delta *d, struct nm_packet *p,
				     __u8 protocol)
{

	if (protocol == IPPROTO_TCP) {
		d->icmp = d->probed - NM_PROBE_WINDOW;
		/* An ACK alone starts little: under a flood of flows most entries begin and end with one. */
		if (p->opening || p->payload || p->urgent)
			return nm_follow_closely(nm_hand_over(skb, cpu, p));
		if (p->tcp_flags & NM_TCP_ACK) {
			if (nm_latency)
				nm_first_ack(nm_hand_over(skb, cpu, p));
			d->state |= NM_TRACKED | NM_ACKED | NM_HEARD;
			d->seq_end = p->seq + !!(p->tcp_flags & NM_TCP_FIN);
			d->ack = p->ack;
			d->window = p->window;
		}
	} else if (protocol == IPPROTO_UDP) {
		return nm_answer(nm_hand_over(skb, cpu, p));
	} else if (nm_is_icmp(protocol)) {
		nm_echo(nm_hand_over(skb, cpu, p));
	}
	return false;
}

/* A SYN that was sent before, and not one that uses the ports again. The first may have had data (RFC 7413). */
static __always_inline bool nm_is_repeated(const struct nm_delta *d, const struct nm_packet *p)
{
	return (d->state & (NM_TRACKED | NM_URGED)) == NM_TRACKED && !(d->tcp_flags & (NM_TCP_FIN | NM_TCP_RST)) &&
	       d->seq_end - p->seq - 1 <= NM_SYN_DATA;
}

/* Another packet of an entry; true if its payload is to be looked at. */
static __always_inline bool nm_hit(struct __sk_buff *skb, struct nm_cpu *cpu, void *entry, const __u32 key_size,
				   struct nm_packet *p)
{
	struct nm_delta *d = NM_DELTA(entry, key_size);
	const bool v6 = key_size == sizeof(struct nm_key6);
	__u8 protocol = nm_protocol(p, key_size);
	__u32 last = d->last;
	bool look = false;

	/* The ports are used again: what is left of the last connection must not blend into the new one. */
	if (p->opening && !nm_is_repeated(d, p)) {
		if (d->packets)
			nm_report_entry(p->cpu, p->slot, v6, NM_DISPLACED);
		d->state &= NM_OPENING | NM_NOTED;
	}
	if (!d->packets)
		d->first = p->now;
	d->packets += p->packets;
	d->bytes += p->bytes;
	d->last = p->now;
	d->tcp_flags |= p->tcp_flags;
	d->state |= p->opening;
	if (protocol == IPPROTO_TCP) {
		look = nm_follow(skb, cpu, d, p);
	} else if (protocol == IPPROTO_UDP) {
		look = nm_datagram_hit(skb, cpu, d, p, last);
	} else {
		d->icmp = p->icmp;
		if (nm_is_icmp(protocol))
			nm_echo(nm_hand_over(skb, cpu, p));
	}
	if (p->urgent)
		nm_tell(d, p, v6);
	return look;
}

/*
 * Put the packet's key into the set in place of the entry worth least: a free slot, one that fell idle, then the one with
 * the fewest packets, so that a flood of small flows displaces its own kind. If the ring takes no record, the smaller of
 * the two is lost: what the victim holds, or this packet. True if the payload is to be looked at.
 */
static __noinline int nm_install(struct __sk_buff *skb, struct nm_cpu *cpu, void *set, __u32 key_size,
				 struct nm_packet *p)
{
	bool v6 = key_size == sizeof(struct nm_key6), look;
	__u32 least = ~0u, way = 0;
	void *victim = set;
	struct nm_delta *d;

#pragma unroll
	for (int w = 0; w < NM_WAYS; w++) {
		void *entry = set + w * NM_ENTRY_SIZE(key_size);
		__u32 worth;

		d = NM_DELTA(entry, key_size);
		if (!nm_ifindex(entry, key_size))
			worth = 0;
		else if ((__u32)p->now - d->last > nm_idle || (!d->packets && d->first))
			worth = 1;
		else
			worth = 2 + d->packets + d->worth;
		if (worth < least) {
			least = worth;
			victim = entry;
			way = w;
		}
	}
	p->slot += way;
	d = NM_DELTA(victim, key_size);
	if (least && nm_has_news(d) && !nm_report_entry(p->cpu, p->slot, v6, NM_DISPLACED)) {
		if (d->packets > p->packets) {
			nm_count_lost(cpu, nm_ifindex(p, key_size), p->packets, p->bytes);
			return 0;
		}
		nm_count_lost(cpu, nm_ifindex(victim, key_size), d->packets, d->bytes);
	}
	if (key_size == sizeof(struct nm_key6))
		*(struct nm_key6 *)victim = p->key6;
	else
		*(struct nm_key4 *)victim = p->key4;
	nm_start(d, p);
	look = nm_begin(skb, cpu, d, p, nm_protocol(p, key_size));
	if (p->urgent)
		nm_tell(d, p, v6);
	return look;
}

/* The cache is in use further down on this CPU's stack: the packet goes past it. */
static __noinline int nm_bypass(struct nm_cpu *cpu, __u32 key_size, const struct nm_packet *p)
{
	union {
		struct nm_entry4 v4;
		struct nm_entry6 v6;
	} entry = {};
	struct nm_delta *d;

	if (key_size == sizeof(struct nm_key6)) {
		entry.v6.key = p->key6;
		d = &entry.v6.delta;
	} else {
		entry.v4.key = p->key4;
		d = &entry.v4.delta;
	}
	nm_start(d, p);
	d->cause = NM_BYPASSED;
	if (!nm_emit(cpu, &entry, key_size, NM_ENTRY_SIZE(key_size)))
		nm_count_lost(cpu, nm_ifindex(p, key_size), p->packets, p->bytes);
	return 0;
}

/* Add the packet to its entry in `set`, the one its hash chose, of number `i`. */
static __always_inline void nm_account(struct __sk_buff *skb, struct nm_cpu *cpu, void *set, __u32 i,
				       const __u32 key_size, struct nm_packet *p)
{
	bool look;

	if (cpu->busy) {
		nm_bypass(cpu, key_size, p);
		return;
	}
	cpu->busy = 1;
	nm_barrier();
	p->v6 = key_size == sizeof(struct nm_key6);
	p->slot = i * NM_WAYS;
#pragma unroll
	for (int w = 0; w < NM_WAYS; w++) {
		void *entry = set + w * NM_ENTRY_SIZE(key_size);

		if (nm_same(entry, p, key_size)) {
			p->slot += w;
			look = nm_hit(skb, cpu, entry, key_size, p);
			goto out;
		}
	}
	look = nm_install(skb, cpu, set, key_size, p);
out:
	if (look)
		nm_look(skb, p->cpu);
	if (p->urgent && p->icmp)
		nm_quote(skb, nm_hand_over(skb, cpu, p));
	nm_barrier();
	cpu->busy = 0;
}
