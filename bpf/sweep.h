/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The sweep: entries that have something to tell leave the cache without waiting to be displaced. User space runs it on
 * each CPU in short slices.
 */
#pragma once

#define NM_SLICE_RECORDS 128 /* written in one run, about */

/* Sweep one entry; true if it is still there. */
static __always_inline bool nm_sweep_entry(struct nm_cpu *cpu, void *entry, const __u32 key_size, __u64 now, bool all)
{
	struct nm_delta *d = NM_DELTA(entry, key_size);
	bool idle;

	if (!nm_ifindex(entry, key_size))
		return false;
	idle = all || now - d->last >= nm_idle;
	if (d->packets) {
		if (!idle && d->worth && now - d->first < nm_report)
			return true;
		if (!nm_report_entry(cpu, entry, key_size, NM_SWEPT))
			return true; /* ring full: later */
	}
	if (idle)
		__builtin_memset(entry, 0, key_size);
	return !idle;
}

/*
 * Global functions, which the verifier walks once, not once a loop turn. They return how many entries of set `i`
 * of all CPUs' sets, one of CPU `id`, are still in use.
 */
__noinline int nm_sweep_set4(__u32 id, __u32 i, __u32 all)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_set4 *set = bpf_map_lookup_elem(&nm_cache4, &i);
	__u64 now = bpf_jiffies64();
	int used = 0;

	if (cpu && set)
		for (int w = 0; w < NM_WAYS; w++)
			used += nm_sweep_entry(cpu, &set->way[w], sizeof(struct nm_key4), now, all);
	return used;
}

__noinline int nm_sweep_set6(__u32 id, __u32 i, __u32 all)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_set6 *set = bpf_map_lookup_elem(&nm_cache6, &i);
	__u64 now = bpf_jiffies64();
	int used = 0;

	if (cpu && set)
		for (int w = 0; w < NM_WAYS; w++)
			used += nm_sweep_entry(cpu, &set->way[w], sizeof(struct nm_key6), now, all);
	return used;
}

/*
 * Sweep the `group`th 64th of the sets from its set `n` on; the set to go on with, or NM_SWEEP_DONE. A group found empty is
 * marked so, and skipped by user space until a packet marks it again.
 */
static __always_inline __u32 nm_sweep_group(struct nm_cpu *cpu, bool v6, __u32 id, __u32 group, __u32 n, bool all)
{
	__u32 shift = (v6 ? nm_shift6 : nm_shift4) - NM_GROUPS_SHIFT, sets = 1u << shift, records = cpu->records;
	__u32 first = (id << (v6 ? nm_shift6 : nm_shift4)) + (group << shift);
	bool whole = !n;
	int used = 0;

	for (int i = 0; i < NM_GROUP_MAX && n < sets; i++, n++) {
		if ((__u32)cpu->records - records >= NM_SLICE_RECORDS)
			return n;
		used += v6 ? nm_sweep_set6(id, first + n, all) : nm_sweep_set4(id, first + n, all);
	}
	if (whole && !used) {
		if (v6)
			cpu->live6 &= ~(1ull << (group & (NM_GROUPS - 1)));
		else
			cpu->live4 &= ~(1ull << (group & (NM_GROUPS - 1)));
	}
	return NM_SWEEP_DONE;
}
