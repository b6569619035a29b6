/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Writes records to the rings. */
#pragma once

/* The parts of an entry of either family. */
#define NM_DELTA(entry) ((struct nm_delta *)(entry))
#define NM_KEY(entry) ((void *)(entry) + sizeof(struct nm_delta))
#define NM_ENTRY_SIZE(key_size) (sizeof(struct nm_delta) + (key_size))

#define NM_UNWOKEN(cpu, ring) ((cpu)->unwoken[(ring) & (NM_MAX_RINGS - 1)])

/*
 * Writes a record of `size` bytes that starts with an entry; false if its ring is full. The head overwrites `kept` of the entry.
 * The reader sleeps while few records wait: it is woken after nm_wake_every records from one CPU, and polls by itself after a short
 * while.
 */
static __always_inline bool nm_emit(struct nm_cpu *cpu, struct nm_delta *record, __u8 kind, __u32 key_size, __u32 size)
{
	__u32 hash, i;
	__u64 flags;
	void *ring;

	record->head = NM_HEAD(kind, NM_FLOW_VERSION, size); /* first: built later, its parts would be kept on the stack until then */
	hash = nm_fold(nm_symmetric(NM_KEY(record), key_size));
	i = ((__u64)hash * nm_rings) >> 32;
	ring = bpf_map_lookup_elem(&nm_ring, &i);
	flags = NM_UNWOKEN(cpu, i) + 1 < nm_wake_every ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;
	/* A record that is not written wakes nobody, so the next one must. */
	if (!ring || bpf_ringbuf_output(ring, record, size, flags))
		return false;
	NM_UNWOKEN(cpu, i) = NM_UNWOKEN(cpu, i) + 1 < nm_wake_every ? NM_UNWOKEN(cpu, i) + 1 : 0;
	cpu->records++;
	return true;
}
