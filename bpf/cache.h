/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The flow cache: finds the entry of a packet, or creates one. */
#pragma once

#define NM_SYN_DATA 1460 /* bytes that a SYN may carry */

static __always_inline __u8 nm_protocol(const struct nm_packet *p, const __u32 key_size)
{
	return key_size == sizeof(struct nm_key6) ? p->key6.protocol : p->key4.protocol;
}

/* Reports an RST or ICMP error at once, but only the first. If the ring is full nothing is lost: the sweep reports the entry later. */
static __always_inline void nm_tell(struct nm_delta *d, const struct nm_packet *p, bool v6)
{
	if (!(d->state & NM_URGED) && nm_report_entry(p->cpu, p->slot, v6, NM_URGENT)) {
		d->state |= NM_URGED;
		nm_flush_all(p->cpu);
	}
}

static __always_inline void nm_start(struct nm_delta *d, const struct nm_packet *p)
{
	d->bytes = p->bytes;
	d->packets = p->packets;
	d->first = p->now;
	d->last = p->now;
	d->seq_end = 0;
	d->ack = 0;
	d->kept.window = 0;
	d->probed = nm_units(p) - nm_probe_every; /* due */
	d->kept.worth = 0;
	d->cause = 0;
	d->icmp = p->icmp;
	d->tcp_flags = p->tcp_flags;
	d->state = p->opening;
	d->looks = nm_apps ? NM_LOOKS_MIDWAY : 0;
}

/* A tunnel is recognised by its header. It is reported once per entry, and the payload is not looked at. */
static __always_inline bool nm_name_tunnel(struct nm_delta *d, const struct nm_packet *p)
{
	struct nm_facts *f;

	if (!nm_decapsulate || !p->tunnel)
		return false;
	if (d->looks == NM_LOOKS_NAMED)
		return true;
	d->looks = NM_LOOKS_NAMED;
	f = nm_note(d, p);
	if (f)
		f->app = p->tunnel;
	return true;
}

/* Handles the first packet of an entry, in `cpu->packet`; true if its payload is to be looked at. */
static __always_inline bool nm_begin(struct nm_delta *d, const struct nm_packet *p, __u8 protocol, bool room)
{
	if (protocol == IPPROTO_TCP) {
		d->icmp = d->probed - NM_PROBE_WINDOW;
		/* A bare ACK may end a handshake, but in a flood of flows most entries consist of just one. */
		if (room || p->opening || p->payload || p->urgent)
			return nm_follow_closely(p->cpu, p->tcp_flags);
		if (p->tcp_flags & NM_TCP_ACK) {
			d->state |= NM_TRACKED | NM_ACKED | NM_HEARD;
			d->seq_end = p->seq + !!(p->tcp_flags & NM_TCP_FIN);
			d->ack = p->ack;
			d->kept.window = p->window;
		}
	} else if (nm_name_tunnel(d, p)) {
		return false;
	} else if (protocol == IPPROTO_UDP) {
		d->looks = nm_apps ? NM_LOOKS_DATAGRAMS : 0;
		return nm_answer(p->cpu);
	} else if (nm_is_icmp(protocol)) {
		nm_echo(p->cpu);
	}
	return false;
}

/* True for a retransmitted SYN, false for one that reuses the ports. The first SYN may have carried data (RFC 7413). */
static __always_inline bool nm_is_repeated(const struct nm_delta *d, const struct nm_packet *p)
{
	return (d->state & (NM_TRACKED | NM_URGED)) == NM_TRACKED && !(d->tcp_flags & (NM_TCP_FIN | NM_TCP_RST)) &&
	       d->seq_end - p->seq - 1 <= NM_SYN_DATA;
}

/* Handles a further packet of an entry; true if its payload is to be looked at. */
static __always_inline bool nm_hit(struct __sk_buff *skb, struct nm_cpu *cpu, void *entry, const __u32 key_size,
				   struct nm_packet *p)
{
	struct nm_delta *d = NM_DELTA(entry);
	const bool v6 = key_size == sizeof(struct nm_key6);
	__u8 protocol = nm_protocol(p, key_size);
	__u32 last = d->last;
	bool look = false;

	/* The ports are reused: what is left of the previous connection must not be mixed with the new one. */
	if (p->opening && protocol == IPPROTO_TCP && !nm_is_repeated(d, p)) {
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
	} else if (nm_name_tunnel(d, p)) {
		look = false;
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

/* The fate of a packet, and whether its payload is to be looked at, in one number. */
#define NM_BECOMES(fate, look) ((fate) << 1 | (look))
#define NM_FATE_OF(became) ((became) >> 1)

/* The same for a packet that belongs to no flow. */
static __always_inline int nm_ignored_as(int verdict)
{
	return NM_BECOMES(verdict == NM_NO_IP ? NM_FATE_NOT_IP : NM_FATE_MALFORMED, 0);
}

/* What packets count for. Attempts to connect count less, so that a flood of them displaces its own kind. */
static __always_inline __u32 nm_weight(__u32 packets, __u8 tcp_flags)
{
	return packets ? packets + !(tcp_flags & NM_TCP_SYN) : 0;
}

/*
 * The value of an entry: 0 if it is free, 1 if it is idle and was reported, else higher the more packets it has had. One that was not
 * reported waits for the sweep: to displace it needs room in a ring.
 */
static __always_inline __u32 nm_worth(const struct nm_delta *d, __u32 ifindex, __u32 now)
{
	if (!ifindex)
		return 0;
	if (!d->packets && (d->first || now - d->last > nm_idle))
		return 1;
	return 2 + nm_weight(d->packets, d->tcp_flags) + d->kept.worth;
}

/*
 * Chooses the least valuable entry of the set as the victim, so that a flood of small flows displaces its own kind, and points the
 * slot of the packet in `cpu->packet` at it. If the ring is full, what counts less is lost: what the victim holds, or this
 * packet. Returns the packet's fate.
 */
static __always_inline int nm_make_room(struct nm_cpu *cpu, void *set, const __u32 key_size)
{
	struct nm_packet *p = nm_packet_of(cpu);
	/* The lowest bits hold the number of the entry: in a variable of its own the verifier would follow every choice. */
	__u64 least = ~0ull;
	struct nm_delta *d;
	void *victim;

#pragma unroll
	for (__u32 w = 0; w < NM_WAYS; w++) {
		void *entry = set + w * NM_ENTRY_SIZE(key_size);
		__u64 worth = (__u64)nm_worth(NM_DELTA(entry), nm_ifindex(NM_KEY(entry), key_size), p->now) * NM_WAYS + w;

		if (worth < least)
			least = worth;
	}
	p->slot += least % NM_WAYS;
	least /= NM_WAYS;
	victim = set + p->slot % NM_WAYS * NM_ENTRY_SIZE(key_size);
	d = NM_DELTA(victim);
	if (least && nm_has_news(d) && !nm_report_entry(p->cpu, p->slot, key_size == sizeof(struct nm_key6), NM_DISPLACED)) {
		if (nm_weight(d->packets, d->tcp_flags) > nm_weight(p->packets, p->tcp_flags)) {
			nm_count_lost(p->cpu, nm_ifindex(p, key_size), p->packets, p->bytes);
			return NM_FATE_LOST;
		}
		nm_count_lost(p->cpu, nm_ifindex(NM_KEY(victim), key_size), d->packets, d->bytes);
		return NM_FATE_OUSTED;
	}
	return least <= 1 ? NM_FATE_NEW : NM_FATE_DISPLACED;
}

static __always_inline int nm_install_in(struct nm_cpu *cpu, void *set, const __u32 key_size)
{
	struct nm_packet *p = nm_packet_of(cpu);
	int fate = nm_make_room(cpu, set, key_size);
	void *entry = set + p->slot % NM_WAYS * NM_ENTRY_SIZE(key_size);
	struct nm_delta *d = NM_DELTA(entry);
	bool look;

	if (fate == NM_FATE_LOST)
		return NM_BECOMES(NM_FATE_LOST, 0);
	__builtin_memcpy(NM_KEY(entry), p->word, key_size);
	nm_start(d, p);
	look = nm_begin(d, p, nm_protocol(p, key_size), fate == NM_FATE_NEW);
	if (p->urgent)
		nm_tell(d, p, key_size == sizeof(struct nm_key6));
	return NM_BECOMES(fate, look);
}

/* Puts the key of the packet in `cpu->packet` into its set. Returns the fate and whether to look, as NM_BECOMES. */
__noinline int nm_install(__u32 id, __u32 v6)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	void *set;
	__u32 i;

	/* Neither can be missing: the caller has found both. The fate must release the cache, because the caller holds it. */
	if (!cpu)
		return NM_BECOMES(NM_FATE_LOST, 0);
	i = nm_packet_of(cpu)->slot / NM_WAYS;
	set = v6 ? bpf_map_lookup_elem(&nm_cache6, &i) : bpf_map_lookup_elem(&nm_cache4, &i);
	if (!set)
		return NM_BECOMES(NM_FATE_LOST, 0);
	return v6 ? nm_install_in(cpu, set, sizeof(struct nm_key6)) : nm_install_in(cpu, set, sizeof(struct nm_key4));
}

/* The cache is in use by what this packet interrupted on its CPU: the packet bypasses it. */
static __noinline int nm_bypass(struct nm_cpu *cpu, __u32 key_size, const struct nm_packet *p)
{
	union {
		struct nm_entry4 v4;
		struct nm_entry6 v6;
	} entry = {};
	struct nm_delta *d = NM_DELTA(&entry);
	__u8 kind = key_size == sizeof(struct nm_key6) ? NM_KIND_FLOW6 : NM_KIND_FLOW4;

	if (kind == NM_KIND_FLOW6)
		entry.v6.key = p->key6;
	else
		entry.v4.key = p->key4;
	nm_start(d, p);
	d->cause = NM_BYPASSED;
	d->head = NM_HEAD(kind, NM_FLOW_VERSION, NM_ENTRY_SIZE(key_size));
	/* Not in a batch, which may be in use as well. */
	if (nm_write(cpu, nm_ring_of(NM_KEY(&entry), key_size), &entry, NM_ENTRY_SIZE(key_size), 1)) {
		cpu->records++;
		return NM_BECOMES(NM_FATE_PAST, 0);
	}
	nm_count_lost(p->cpu, nm_ifindex(p, key_size), p->packets, p->bytes);
	return NM_BECOMES(NM_FATE_PAST_LOST, 0);
}

/* Adds the packet to its entry in `set`, set number `i`, which its hash selects. The result must be passed to nm_finish. */
static __always_inline int nm_account(struct __sk_buff *skb, struct nm_cpu *cpu, void *set, __u32 i,
				       const __u32 key_size, struct nm_packet *p)
{
	if (cpu->busy)
		return nm_bypass(cpu, key_size, p);
	cpu->busy = 1;
	nm_barrier();
	p->v6 = key_size == sizeof(struct nm_key6);
	p->slot = i * NM_WAYS;
	if (cpu->sample && nm_is_left_out(p->word, key_size, cpu->sample)) {
		nm_count_left_out(p->cpu, nm_ifindex(p->word, key_size), p->packets, p->bytes);
		return NM_BECOMES(NM_FATE_LEFT_OUT, 0); /* an ICMP error may still be about a flow in the sample */
	}
#pragma unroll
	for (int w = 0; w < NM_WAYS; w++) {
		void *entry = set + w * NM_ENTRY_SIZE(key_size);

		if (nm_same(NM_KEY(entry), p->word, key_size)) {
			p->slot += w;
			return nm_hit(skb, cpu, entry, key_size, p);
		}
	}
	return nm_install(nm_hand_over(skb, cpu, p), p->v6);
}

/* Finishes an accounted packet. Separate from nm_account because these steps need a deep stack. */
static __always_inline void nm_finish(struct __sk_buff *skb, struct nm_cpu *cpu, struct nm_packet *p, int became)
{
	if (became >= NM_BECOMES(NM_FATE_PAST, 0))
		return;
	if (became & 1)
		nm_look(skb, p->cpu);
	if (p->urgent && p->icmp)
		nm_quote(skb, nm_hand_over(skb, cpu, p));
	nm_barrier();
	cpu->busy = 0;
}

/* Accounts the packet in the set of its hash. The live bit is set after the entry: a sweep in between would clear it. */
static __always_inline int nm_account4(struct __sk_buff *skb, struct nm_cpu *cpu, struct nm_packet *p)
{
	__u32 hash = nm_hash(p->word, sizeof(p->key4)) >> (32 - nm_shift4), i = (p->cpu << nm_shift4) + hash;
	void *set = bpf_map_lookup_elem(&nm_cache4, &i);
	int became;

	if (!set)
		return NM_BECOMES(NM_FATE_PAST_LOST, 0);
	became = nm_account(skb, cpu, set, i, sizeof(p->key4), p);
	cpu->live4 |= 1ull << (hash >> (nm_shift4 - NM_GROUPS_SHIFT) & (NM_GROUPS - 1));
	return became;
}

static __always_inline int nm_account6(struct __sk_buff *skb, struct nm_cpu *cpu, struct nm_packet *p)
{
	__u32 hash = nm_hash(p->word, sizeof(p->key6)) >> (32 - nm_shift6), i = (p->cpu << nm_shift6) + hash;
	void *set = bpf_map_lookup_elem(&nm_cache6, &i);
	int became;

	if (!set)
		return NM_BECOMES(NM_FATE_PAST_LOST, 0);
	became = nm_account(skb, cpu, set, i, sizeof(p->key6), p);
	cpu->live6 |= 1ull << (hash >> (nm_shift6 - NM_GROUPS_SHIFT) & (NM_GROUPS - 1));
	return became;
}
