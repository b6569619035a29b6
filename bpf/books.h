/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The books: every packet is in one of them. */
#pragma once

#define NM_PROBES 8

/* The first slot is taken, by another interface or by none: the next ones, then the one that all others share. */
static __noinline struct nm_books *nm_books_elsewhere(__u32 cpu, __u32 ifindex)
{
	struct nm_books *b;
	__u32 i;

#pragma unroll
	for (int probe = 0; probe < NM_PROBES; probe++) {
		i = cpu * (NM_INTERFACES + 1) + ((ifindex + probe) & (NM_INTERFACES - 1));
		b = bpf_map_lookup_elem(&nm_interfaces, &i);
		if (!b || b->ifindex == ifindex)
			return b;
		if (!b->ifindex) {
			b->ifindex = ifindex;
			return b;
		}
	}
	i = cpu * (NM_INTERFACES + 1) + NM_INTERFACES;
	return bpf_map_lookup_elem(&nm_interfaces, &i);
}

/* The books of an interface on `cpu`, the present one. */
static __always_inline struct nm_books *nm_books_of(__u32 cpu, __u32 ifindex)
{
	__u32 i = cpu * (NM_INTERFACES + 1) + (ifindex & (NM_INTERFACES - 1));
	struct nm_books *b = bpf_map_lookup_elem(&nm_interfaces, &i);

	return b && b->ifindex == ifindex ? b : nm_books_elsewhere(cpu, ifindex);
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

/* A record that cannot be written takes its packets with it. */
static __always_inline void nm_count_lost(struct nm_cpu *cpu, __u32 ifindex, __u64 packets, __u64 bytes)
{
	struct nm_books *b = nm_books_of(bpf_get_smp_processor_id(), ifindex);

	cpu->records_lost++;
	if (b)
		nm_count(&b->lost, packets, bytes);
}

static __noinline void nm_count_left_out(__u32 ifindex, const struct nm_packet *p)
{
	struct nm_books *b = nm_books_of(p->cpu, ifindex);

	if (b)
		nm_count(&b->left_out, p->packets, p->bytes);
}
