/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Entries of the flow cache and the records written from them. `slot` is the number of an entry: its set and its way in one.
 * Callers hold the CPU's `busy` mark, so nothing here is shared.
 *
 * Long functions are global: the verifier walks them once, not once per call. Before Linux 5.13 global functions take only
 * numbers, so an entry is passed as CPU, slot and family.
 */
#pragma once

#define nm_barrier() asm volatile("" ::: "memory")

#define NM_SHARERS (NM_WAYS << NM_FACTS_SHIFT) /* entries that share facts */

static __always_inline bool nm_same(const void *a, const void *b, const __u32 key_size)
{
	const __u64 *x = a, *y = b;
	__u64 d = (x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]);

	if (key_size == sizeof(struct nm_key6))
		d |= (x[3] ^ y[3]) | (x[4] ^ y[4]) | (x[5] ^ y[5]);
	return !d;
}

static __always_inline __u32 nm_ifindex(const void *key, __u32 key_size)
{
	return key_size == sizeof(struct nm_key6) ? ((const struct nm_key6 *)key)->ifindex :
						    ((const struct nm_key4 *)key)->ifindex;
}

static __always_inline struct nm_entry4 *nm_entry4_at(__u32 slot)
{
	__u32 i = slot / NM_WAYS;
	struct nm_set4 *set = bpf_map_lookup_elem(&nm_cache4, &i);

	return set ? &set->way[slot % NM_WAYS] : 0;
}

static __always_inline struct nm_entry6 *nm_entry6_at(__u32 slot)
{
	__u32 i = slot / NM_WAYS;
	struct nm_set6 *set = bpf_map_lookup_elem(&nm_cache6, &i);

	return set ? &set->way[slot % NM_WAYS] : 0;
}

static __always_inline struct nm_facts *nm_facts_at(__u32 slot, bool v6)
{
	__u32 i = slot / NM_SHARERS;

	return v6 ? bpf_map_lookup_elem(&nm_facts6, &i) : bpf_map_lookup_elem(&nm_facts4, &i);
}

/* True if there is something to report. Facts alone are enough: an earlier record may have reported their packet already. */
static __always_inline bool nm_has_news(const struct nm_delta *d)
{
	return d->packets || d->state & NM_NOTED;
}

static __always_inline void nm_delta_tell(struct nm_delta *d, __u8 cause)
{
	d->cause = cause | (d->cause & (NM_SHORT | NM_UNJUDGED | NM_STAMPED));
	if (!d->packets)
		d->first = d->last;
}

/* Clears the facts that a record has reported, and keeps what is needed to judge later packets. */
static __always_inline void nm_facts_told(struct nm_facts *f)
{
	f->retransmits = 0;
	f->out_of_order = 0;
	f->duplicate_acks = 0;
	f->zero_windows = 0;
	f->resets = 0;
	f->samples = 0;
	f->app = 0;
	f->app_next = 0;
	f->app_version = 0;
}

static __always_inline void nm_delta_told(struct nm_delta *d)
{
	__u32 worth = d->kept.worth / 2 + d->packets;

	d->kept.worth = worth > 0xffff ? 0xffff : worth;
	d->packets = 0;
	d->bytes = 0;
	d->first = 0;
	d->cause &= NM_SHORT;
	d->tcp_flags = 0;
	d->state &= ~(NM_OPENING | NM_NOTED);
}

static __always_inline bool nm_report4(struct nm_cpu *cpu, __u32 id, __u32 slot, __u8 cause)
{
	struct nm_entry4 *entry = nm_entry4_at(slot);
	struct nm_batch *batch;
	struct nm_noted4 *record;
	struct nm_facts *f;

	if (!entry)
		return false;
	nm_delta_tell(&entry->delta, cause); /* early: kept until later, the cause would take room on the stack */
	batch = nm_batch_with_room(cpu, id, nm_ring_of(&entry->key, sizeof(entry->key)));
	if (!batch)
		return false;
	record = nm_batch_end(batch);
	record->entry = *entry;
	if (entry->delta.state & NM_NOTED) {
		f = nm_facts_at(slot, false);
		if (!f)
			return false;
		record->facts = *f;
		record->entry.delta.head = NM_HEAD(NM_KIND_NOTED4, NM_FLOW_VERSION, sizeof(*record));
		nm_batch_add(cpu, batch, sizeof(*record));
		nm_facts_told(f);
	} else {
		record->entry.delta.head = NM_HEAD(NM_KIND_FLOW4, NM_FLOW_VERSION, sizeof(*entry));
		nm_batch_add(cpu, batch, sizeof(*entry));
	}
	nm_delta_told(&entry->delta);
	return true;
}

static __always_inline bool nm_report6(struct nm_cpu *cpu, __u32 id, __u32 slot, __u8 cause)
{
	struct nm_entry6 *entry = nm_entry6_at(slot);
	struct nm_batch *batch;
	struct nm_noted6 *record;
	struct nm_facts *f;

	if (!entry)
		return false;
	nm_delta_tell(&entry->delta, cause); /* early: kept until later, the cause would take room on the stack */
	batch = nm_batch_with_room(cpu, id, nm_ring_of(&entry->key, sizeof(entry->key)));
	if (!batch)
		return false;
	record = nm_batch_end(batch);
	record->entry = *entry;
	if (entry->delta.state & NM_NOTED) {
		f = nm_facts_at(slot, true);
		if (!f)
			return false;
		record->facts = *f;
		record->entry.delta.head = NM_HEAD(NM_KIND_NOTED6, NM_FLOW_VERSION, sizeof(*record));
		nm_batch_add(cpu, batch, sizeof(*record));
		nm_facts_told(f);
	} else {
		record->entry.delta.head = NM_HEAD(NM_KIND_FLOW6, NM_FLOW_VERSION, sizeof(*entry));
		nm_batch_add(cpu, batch, sizeof(*entry));
	}
	nm_delta_told(&entry->delta);
	return true;
}

/*
 * Adds what is new in an entry to the batch of its ring, as a record, and resets it. Returns 0 if both are full: the entry then
 * keeps its news.
 */
__noinline int nm_report_entry(__u32 id, __u32 slot, __u32 v6, __u32 cause)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);

	return cpu && (v6 ? nm_report6(cpu, id, slot, cause) : nm_report4(cpu, id, slot, cause));
}

/* A checksum that tells apart the entries that occupy the same slot one after another. */
static __always_inline __u32 nm_check(const void *key, const __u32 key_size)
{
	const __u32 *w = key; /* the first address, then in any case the ports */
	__u32 check = w[0] ^ w[1] * 31 ^ w[2] * 961;

	return key_size == sizeof(struct nm_key6) ? check ^ w[3] ^ w[7] * 31 ^ w[8] * 961 : check;
}

/*
 * Assigns the facts to an entry, and returns them. If another entry that shares them owns them, its record is written first. Returns
 * 0 if there is no room for that.
 */
static __always_inline struct nm_facts *nm_claim(__u32 id, __u32 slot, __u32 v6)
{
	__u32 owner = slot % NM_SHARERS + 1, check, other;
	struct nm_facts *f = nm_facts_at(slot, v6);
	struct nm_entry4 *e4;
	struct nm_entry6 *e6;
	bool noted;

	if (!f)
		return 0;
	if (v6) {
		e6 = nm_entry6_at(slot);
		if (!e6)
			return 0;
		check = nm_check(&e6->key, sizeof(e6->key));
	} else {
		e4 = nm_entry4_at(slot);
		if (!e4)
			return 0;
		check = nm_check(&e4->key, sizeof(e4->key));
	}
	if (f->owner == owner && f->check == check)
		return f;
	if (f->owner && f->owner != owner) {
		other = slot - slot % NM_SHARERS + ((f->owner - 1) & (NM_SHARERS - 1));
		if (v6) {
			e6 = nm_entry6_at(other);
			noted = e6 && e6->key.ifindex && e6->delta.state & NM_NOTED;
		} else {
			e4 = nm_entry4_at(other);
			noted = e4 && e4->key.ifindex && e4->delta.state & NM_NOTED;
		}
		if (noted && !nm_report_entry(id, other, v6, NM_DISPLACED))
			return 0;
	}
	__builtin_memset(f, 0, sizeof(*f));
	f->owner = owner;
	f->check = check;
	return f;
}

__noinline int nm_claim_facts(__u32 id, __u32 slot, __u32 v6)
{
	return !!nm_claim(id, slot, v6);
}

static __always_inline struct nm_delta *nm_delta_at(__u32 slot, bool v6)
{
	if (v6) {
		struct nm_entry6 *entry = nm_entry6_at(slot);

		return entry ? &entry->delta : 0;
	} else {
		struct nm_entry4 *entry = nm_entry4_at(slot);

		return entry ? &entry->delta : 0;
	}
}

/* Puts the packet where global functions find it. Returns its CPU, to pass to them. */
static __always_inline __u32 nm_hand_over(struct __sk_buff *skb, struct nm_cpu *cpu, struct nm_packet *p)
{
	p->hardware = nm_clock == NM_CLOCK_HARDWARE ? skb->hwtstamp : 0;
	*nm_packet_of(cpu) = *p;
	return p->cpu;
}

/* The facts of the packet's entry; 0 if they cannot be had because the ring is full. */
static __always_inline struct nm_facts *nm_facts_of(const struct nm_packet *p)
{
	return nm_claim_facts(p->cpu, p->slot, p->v6) ? nm_facts_at(p->slot, p->v6) : 0;
}

/* The same, and marks the facts as news, so that the next record includes them. */
static __always_inline struct nm_facts *nm_note(struct nm_delta *d, const struct nm_packet *p)
{
	struct nm_facts *f = nm_facts_of(p);

	if (f)
		d->state |= NM_NOTED;
	return f;
}

/* Adds a measured time to the facts. It is dropped, and counted, if it would need a further record too soon after the last. */
__noinline int nm_add_sample(__u32 id, __u32 slot, __u32 v6, __u64 sample)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_delta *d = nm_delta_at(slot, v6);
	struct nm_facts *f;

	if (!cpu || !d)
		return 0;
	f = nm_claim(id, slot, v6);
	if (f && f->samples >= NM_SAMPLES &&
	    ((__u32)nm_packet_of(cpu)->now - d->first < nm_sample_gap || !nm_report_entry(id, slot, v6, NM_SWEPT)))
		f = 0;
	if (!f) {
		cpu->unsampled++;
		return 0;
	}
	d->state |= NM_NOTED;
	f->sample[f->samples & (NM_SAMPLES - 1)] = sample;
	f->samples++;
	return 0;
}

static __always_inline void nm_sample(const struct nm_packet *p, __u64 kind, __u64 ns)
{
	nm_add_sample(p->cpu, p->slot, p->v6, kind << NM_KIND_SHIFT | ns);
}
