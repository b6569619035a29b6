/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Records leave by rings. */
#pragma once

#define NM_UNWOKEN(cpu, ring) ((cpu)->unwoken[(ring) & (NM_MAX_RINGS - 1)])

/*
 * Write `size` bytes as a record, those of an entry first; false if its ring is full. The reader sleeps on while few records wait: it is woken once
 * nm_wake_every have come from one CPU, and looks by itself after a short while.
 */
static __always_inline bool nm_emit(struct nm_cpu *cpu, void *entry, __u32 key_size, __u32 size)
{
	__u32 hash = nm_fold(nm_symmetric(entry, key_size));
	__u32 i = ((__u64)hash * nm_rings) >> 32;
	void *ring = bpf_map_lookup_elem(&nm_ring, &i);
	__u64 flags = NM_UNWOKEN(cpu, i) + 1 < nm_wake_every ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;

	/* What is not written wakes nobody: the next is to. */
	if (!ring || bpf_ringbuf_output(ring, entry, size, flags))
		return false;
	NM_UNWOKEN(cpu, i) = NM_UNWOKEN(cpu, i) + 1 < nm_wake_every ? NM_UNWOKEN(cpu, i) + 1 : 0;
	cpu->records++;
	return true;
}
