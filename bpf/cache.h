/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The flow cache. Written once for both families: an entry is a struct nm_entry4 or nm_entry6, `key_size` tells which. A
 * packet starts with its key. Callers hold the CPU's `busy` mark, so nothing here is shared.
 */
#pragma once

#define nm_barrier() asm volatile("" ::: "memory")

#define NM_DELTA(entry, key_size) ((struct nm_delta *)((void *)(entry) + (key_size)))
#define NM_ENTRY_SIZE(key_size) ((key_size) + sizeof(struct nm_delta))

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

/* Write what is new of `entry` as a record and start over; false, and nothing changed, if the ring is full. */
static __noinline bool nm_report_entry(struct nm_cpu *cpu, void *entry, __u32 key_size, __u8 cause)
{
	struct nm_delta *d = NM_DELTA(entry, key_size);
	__u64 worth = d->worth / 2 + d->packets;

	d->cause = cause;
	if (!nm_emit(cpu, entry, key_size))
		return false;
	d->worth = worth > 0xffff ? 0xffff : worth;
	d->packets = 0;
	d->bytes = 0;
	d->tcp_flags = 0;
	d->opening = 0;
	return true;
}

/* RST and ICMP errors are news: tell once, with all that came before. A full ring is no loss, the sweep comes later. */
static __always_inline void nm_tell(struct nm_cpu *cpu, void *entry, __u32 key_size)
{
	struct nm_delta *d = NM_DELTA(entry, key_size);

	if (!d->urged && nm_report_entry(cpu, entry, key_size, NM_URGENT))
		d->urged = 1;
}

static __always_inline void nm_start(struct nm_delta *d, const struct nm_packet *p)
{
	d->packets = p->packets;
	d->bytes = p->bytes;
	d->first = p->now;
	d->last = p->now;
	d->tcp_flags = p->tcp_flags;
	d->icmp_type = p->icmp_type;
	d->icmp_code = p->icmp_code;
	d->worth = 0;
	d->urged = 0;
	d->opening = p->opening;
}

static __always_inline void nm_hit(struct nm_cpu *cpu, void *entry, const __u32 key_size, const struct nm_packet *p)
{
	struct nm_delta *d = NM_DELTA(entry, key_size);

	/* The ports are used again: what is left of the last connection must not blend into the new one. */
	if (p->opening) {
		if (d->packets && d->tcp_flags & (NM_TCP_FIN | NM_TCP_RST | NM_TCP_ACK))
			nm_report_entry(cpu, entry, key_size, NM_DISPLACED);
		d->urged = 0;
	}
	if (!d->packets)
		d->first = p->now;
	d->packets += p->packets;
	d->bytes += p->bytes;
	d->last = p->now;
	d->tcp_flags |= p->tcp_flags;
	d->opening |= p->opening;
	d->icmp_type = p->icmp_type;
	d->icmp_code = p->icmp_code;
	if (p->urgent)
		nm_tell(cpu, entry, key_size);
}

/*
 * Put the packet's key into the set in place of the entry worth least: a free slot, one that fell idle, then the one with
 * the fewest packets, so that a flood of small flows displaces its own kind. If the ring takes no record, the smaller of
 * the two is lost: what the victim holds, or this packet.
 */
static __noinline int nm_install(struct nm_cpu *cpu, void *set, __u32 key_size, const struct nm_packet *p)
{
	__u64 least = ~0ull;
	void *victim = set;
	struct nm_delta *d;

#pragma unroll
	for (int w = 0; w < NM_WAYS; w++) {
		void *entry = set + w * NM_ENTRY_SIZE(key_size);
		__u64 worth;

		d = NM_DELTA(entry, key_size);
		if (!nm_ifindex(entry, key_size))
			worth = 0;
		else if (p->now - d->last > nm_idle)
			worth = 1;
		else
			worth = 2 + d->packets + d->worth;
		if (worth < least) {
			least = worth;
			victim = entry;
		}
	}
	d = NM_DELTA(victim, key_size);
	if (least && d->packets && !nm_report_entry(cpu, victim, key_size, NM_DISPLACED)) {
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
	if (p->urgent)
		nm_tell(cpu, victim, key_size);
	return 0;
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
	if (!nm_emit(cpu, &entry, key_size))
		nm_count_lost(cpu, nm_ifindex(p, key_size), p->packets, p->bytes);
	return 0;
}

/* Add the packet to its entry in `set`, the one its hash chose. */
static __always_inline void nm_account(struct nm_cpu *cpu, void *set, const __u32 key_size, const struct nm_packet *p)
{
	if (cpu->busy) {
		nm_bypass(cpu, key_size, p);
		return;
	}
	cpu->busy = 1;
	nm_barrier();
#pragma unroll
	for (int w = 0; w < NM_WAYS; w++) {
		void *entry = set + w * NM_ENTRY_SIZE(key_size);

		if (nm_same(entry, p, key_size)) {
			nm_hit(cpu, entry, key_size, p);
			goto out;
		}
	}
	nm_install(cpu, set, key_size, p);
out:
	nm_barrier();
	cpu->busy = 0;
}
