/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The sweep reports entries with news without waiting until they are displaced, and removes idle ones from the cache. User space
 * runs it on each CPU in short slices.
 */
#pragma once

#define NM_SLICE_RECORDS 128 /* written in one run, approximately */
#define NM_SLICE_SETS 512    /* examined in one run, approximately */

/*
 * Sweeps one entry; true if it is still there. An idle entry is reported at once but kept for a while, because the next packet is
 * judged by what the entry knows.
 */
static __always_inline bool nm_sweep_entry(__u32 id, void *entry, const __u32 key_size, __u32 slot, __u32 now, bool all)
{
	struct nm_delta *d = NM_DELTA(entry);

	if (!nm_ifindex(NM_KEY(entry), key_size))
		return false;
	if (nm_has_news(d)) {
		if (!all && now - d->last < nm_idle && d->kept.worth && now - d->first < nm_report)
			return true;
		if (!nm_report_entry(id, slot, key_size == sizeof(struct nm_key6), NM_SWEPT))
			return true; /* the ring is full: try again later */
	} else if (d->first < nm_forget) {
		d->first++;
	}
	if (!all && d->first < nm_forget)
		return true;
	__builtin_memset(NM_KEY(entry), 0, key_size);
	return false;
}

/*
 * Global functions: the verifier walks them once, not once per iteration. They return how many entries of set `i`, an index
 * among the sets of all CPUs that belongs to CPU `id`, are still in use.
 */
__noinline int nm_sweep_set4(__u32 id, __u32 i, __u32 all)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_set4 *set = bpf_map_lookup_elem(&nm_cache4, &i);
	int used = 0;

	if (cpu && set)
		for (int w = 0; w < NM_WAYS; w++)
			used += nm_sweep_entry(id, &set->way[w], sizeof(struct nm_key4), i * NM_WAYS + w, cpu->jiffies, all);
	return used;
}

__noinline int nm_sweep_set6(__u32 id, __u32 i, __u32 all)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_set6 *set = bpf_map_lookup_elem(&nm_cache6, &i);
	int used = 0;

	if (cpu && set)
		for (int w = 0; w < NM_WAYS; w++)
			used += nm_sweep_entry(id, &set->way[w], sizeof(struct nm_key6), i * NM_WAYS + w, cpu->jiffies, all);
	return used;
}

/*
 * Sweeps the group that starts with set `first`, an index among the sets of all CPUs, beginning with the group's set `n`. Returns
 * the set of the group to continue with. A group found empty is marked as such and skipped until a packet marks it as used.
 */
__noinline int nm_sweep_group(__u32 id, __u32 v6, __u32 first, __u32 n, __u32 all)
{
	__u32 sets = 1u << ((v6 ? nm_shift6 : nm_shift4) - NM_GROUPS_SHIFT), records;
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	bool whole = !n;
	int used = 0;

	if (!cpu)
		return sets;
	records = cpu->records;
	for (int i = 0; i < NM_GROUP_MAX && n < sets; i++, n++) {
		if ((__u32)cpu->records - records >= NM_SLICE_RECORDS)
			return n;
		used += v6 ? nm_sweep_set6(id, first + n, all) : nm_sweep_set4(id, first + n, all);
	}
	if (whole && !used) {
		__u64 bit = 1ull << (first / sets & (NM_GROUPS - 1));

		if (v6)
			cpu->live6 &= ~bit;
		else
			cpu->live4 &= ~bit;
	}
	return sets;
}

/*
 * Sweeps the groups in use, beginning with set `from` of this CPU. Returns the set to continue with, or NM_SWEEP_DONE. The progress
 * of the slice is kept in the map: in registers, old verifiers would follow every way to reach it.
 */
static __always_inline __u32 nm_sweep_slice(struct nm_cpu *cpu, bool v6, __u32 id, __u32 from, bool all)
{
	__u32 shift = v6 ? nm_shift6 : nm_shift4, group_shift = shift - NM_GROUPS_SHIFT, sets = 1u << group_shift;

	cpu->slice_sets = 0;
	cpu->slice_start = cpu->records;
	for (__u32 group = 0; group < NM_GROUPS; group++) {
		__u32 first = group << group_shift, n = first < from ? from - first : 0;

		if (n >= sets || !((v6 ? cpu->live6 : cpu->live4) >> group & 1))
			continue;
		if (cpu->slice_sets >= NM_SLICE_SETS || cpu->records - cpu->slice_start >= NM_SLICE_RECORDS)
			return first + n;
		n = nm_sweep_group(id, v6, (id << shift) + first, n, all);
		if (n < sets)
			return first + n;
		cpu->slice_sets += sets;
	}
	return NM_SWEEP_DONE;
}
