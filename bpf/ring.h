/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Records leave by rings. */
#pragma once

/*
 * Write `entry` as a record; false if its ring is full. The reader sleeps on while few records wait: it is woken once
 * nm_wake_every have come from one CPU, and looks by itself after a short while.
 */
static __always_inline bool nm_emit(struct nm_cpu *cpu, void *entry, __u32 key_size)
{
	bool v6 = key_size == sizeof(struct nm_key6);
	__u32 hash = v6 ? nm_symmetric6(entry) : nm_symmetric4(entry);
	__u32 i = ((__u64)hash * nm_rings) >> 32;
	__u32 *unwoken = &cpu->unwoken[i & (NM_MAX_RINGS - 1)];
	void *ring = bpf_map_lookup_elem(&nm_ring, &i);
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (++*unwoken >= nm_wake_every) {
		*unwoken = 0;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	if (!ring || bpf_ringbuf_output(ring, entry, key_size + sizeof(struct nm_delta), flags))
		return false;
	cpu->records++;
	return true;
}
