/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The books: for each interface, counters in which every packet ends up exactly once. */
#pragma once

/*
 * Finds the books of an interface on `cpu`, the current one, if another interface has its first slot. Returns the index of one of
 * the next slots, or of the slot that all remaining interfaces share.
 */
__noinline int nm_books_elsewhere(__u32 cpu, __u32 ifindex)
{
	struct nm_books_used *used;
	struct nm_books *b;
	__u32 i;

#pragma unroll
	for (int probe = 0; probe < NM_PROBES; probe++) {
		i = cpu * (NM_INTERFACES + 1) + ((ifindex + probe) & (NM_INTERFACES - 1));
		b = bpf_map_lookup_elem(&nm_interfaces, &i);
		if (b && !b->ifindex) {
			b->ifindex = ifindex;
			used = bpf_map_lookup_elem(&nm_books_used, &cpu);
			if (used)
				used->slot[(ifindex + probe) & (NM_INTERFACES - 1)] = 1;
		}
		if (b && b->ifindex == ifindex)
			return i;
	}
	return cpu * (NM_INTERFACES + 1) + NM_INTERFACES;
}

/* The books of an interface on `cpu`, the current one. */
static __always_inline struct nm_books *nm_books_of(__u32 cpu, __u32 ifindex)
{
	__u32 i = cpu * (NM_INTERFACES + 1) + (ifindex & (NM_INTERFACES - 1));
	struct nm_books *b = bpf_map_lookup_elem(&nm_interfaces, &i);

	if (b && b->ifindex == ifindex)
		return b;
	i = nm_books_elsewhere(cpu, ifindex);
	return bpf_map_lookup_elem(&nm_interfaces, &i);
}

static __always_inline void nm_count(struct nm_tally *t, __u64 packets, __u64 bytes)
{
	t->packets += packets;
	t->bytes += bytes;
}

static __always_inline void nm_ignore(struct nm_books *books, int verdict, const struct nm_packet *p)
{
	nm_count(&books->ignored[verdict == NM_NO_IP ? NM_NOT_IP : NM_MALFORMED], p->packets, p->bytes);
}

/* Counts a record that could not be written, and the packets that are lost with it. */
__noinline int nm_count_lost(__u32 id, __u32 ifindex, __u64 packets, __u64 bytes)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_books *b = nm_books_of(id, ifindex);

	if (cpu)
		cpu->records_lost++;
	if (b)
		nm_count(&b->lost, packets, bytes);
	return 0;
}

__noinline int nm_count_left_out(__u32 id, __u32 ifindex, __u64 packets, __u64 bytes)
{
	struct nm_books *b = nm_books_of(id, ifindex);

	if (b)
		nm_count(&b->left_out, packets, bytes);
	return 0;
}
