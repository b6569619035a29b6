/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Writes records to the rings. Each CPU collects the records for a ring in a batch, because a ring is locked for each piece that is
 * written to it. A batch is written when it is full, with an urgent record, and at the end of each sweep.
 */
#pragma once

/* The parts of an entry of either family. */
#define NM_DELTA(entry) ((struct nm_delta *)(entry))
#define NM_KEY(entry) ((void *)(entry) + sizeof(struct nm_delta))
#define NM_ENTRY_SIZE(key_size) (sizeof(struct nm_delta) + (key_size))

#define NM_UNWOKEN(cpu, ring) ((cpu)->unwoken[(ring) & (NM_MAX_RINGS - 1)])

/* The number in a register of its own: old verifiers do not learn from a comparison of its lower half. */
static __always_inline __u64 nm_opaque(__u64 number)
{
	asm volatile("" : "+r"(number));
	return number;
}

/* The ring of a flow. */
static __always_inline __u32 nm_ring_of(const void *key, const __u32 key_size)
{
	return ((__u64)nm_fold(nm_symmetric(key, key_size)) * nm_rings) >> 32;
}

/*
 * Writes `records` records of `size` bytes together to ring `i`; false if it is full. The reader sleeps while few records wait: it is
 * woken after nm_wake_every records from one CPU, and polls by itself after a short while.
 */
static __always_inline bool nm_write(struct nm_cpu *cpu, __u32 i, void *from, __u32 size, __u32 records)
{
	void *ring = bpf_map_lookup_elem(&nm_ring, &i);
	__u32 unwoken = NM_UNWOKEN(cpu, i) + records;

	/* A record that is not written wakes nobody, so the next one must. */
	if (!ring || bpf_ringbuf_output(ring, from, size, unwoken < nm_wake_every ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP))
		return false;
	NM_UNWOKEN(cpu, i) = unwoken < nm_wake_every ? unwoken : 0;
	return true;
}

static __always_inline struct nm_batch *nm_batch_of(__u32 id, __u32 ring)
{
	__u32 i = id * nm_rings + ring;

	return bpf_map_lookup_elem(&nm_batches, &i);
}

/* Writes a batch of `cpu` to ring `i`; false if it is full. */
static __always_inline bool nm_flush(struct nm_cpu *cpu, struct nm_batch *batch, __u32 i)
{
	__u64 used = nm_opaque(batch->used);

	/* Never larger, which the verifier cannot know. */
	if (used > sizeof(batch->data) || !nm_write(cpu, i, batch->data, used, batch->records))
		return false;
	cpu->batched -= batch->records;
	batch->used = 0;
	batch->records = 0;
	return true;
}

/* The batch of CPU `id` for ring `i`, with room for a record of any kind; 0 if it is full and the ring is too. */
static __always_inline struct nm_batch *nm_batch_with_room(struct nm_cpu *cpu, __u32 id, __u32 i)
{
	struct nm_batch *batch = nm_batch_of(id, i);

	return batch && (batch->used <= NM_BATCH_FULL || nm_flush(cpu, batch, i)) ? batch : 0;
}

/* Where the next record of the batch starts. */
static __always_inline void *nm_batch_end(struct nm_batch *batch)
{
	__u64 used = nm_opaque(batch->used);

	return (void *)batch->data + (used <= NM_BATCH_FULL ? used : 0); /* never larger, as above */
}

/* Adds the record of `size` bytes that the caller has put at the end of the batch. */
static __always_inline void nm_batch_add(struct nm_cpu *cpu, struct nm_batch *batch, __u32 size)
{
	batch->used += size;
	batch->records++;
	cpu->batched++;
	cpu->records++;
}

/* Adds a record that is an entry; false if there is no room. The head overwrites `kept` of the entry. */
static __always_inline bool nm_emit(struct nm_cpu *cpu, __u32 id, struct nm_delta *entry, __u8 kind, const __u32 key_size)
{
	struct nm_batch *batch = nm_batch_with_room(cpu, id, nm_ring_of(NM_KEY(entry), key_size));

	if (!batch)
		return false;
	entry->head = NM_HEAD(kind, NM_FLOW_VERSION, NM_ENTRY_SIZE(key_size));
	__builtin_memcpy(nm_batch_end(batch), entry, NM_ENTRY_SIZE(key_size));
	nm_batch_add(cpu, batch, NM_ENTRY_SIZE(key_size));
	return true;
}

/* Writes all batches of CPU `id`. What a full ring has no room for is left for the next sweep. */
__noinline int nm_flush_all(__u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_batch *batch;

	if (!cpu)
		return 0;
	for (__u32 i = 0; i < NM_MAX_RINGS && i < nm_rings; i++) {
		batch = nm_batch_of(id, i);
		if (batch && batch->records)
			nm_flush(cpu, batch, i);
	}
	return 0;
}
