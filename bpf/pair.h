/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The pairing table: relates what was seen of one direction of a connection to what is seen of the other. */
#pragma once

/* One of the two slots a connection may have. A slot is free again once its connection has ended or has been silent for a while. */
static __always_inline struct nm_pair *nm_pair_at(__u64 tag, __u32 way)
{
	__u32 i = tag >> (64 - nm_pair_shift) ^ way;

	return bpf_map_lookup_elem(&nm_pairs, &i);
}

static __always_inline bool nm_pair_free(const struct nm_pair *pair, __u32 units)
{
	return !pair->tag || pair->flags & NM_PAIR_CLOSED || units - pair->touched >= nm_pair_stale;
}

/*
 * The pair of the packet's connection, or 0 if there is none; with `take`, a free slot is taken for it. Sets `p->tag` and
 * `p->side`; the tag is 0 if the packet goes from an endpoint to itself.
 */
static __always_inline struct nm_pair *nm_pair_of(struct nm_cpu *cpu, struct nm_packet *p, bool take)
{
	struct nm_pair *pair, *other;
	__u64 from, to, tag;
	__u32 units;

	if (p->v6) {
		from = nm_endpoint6(p->key6.saddr, p->key6.sport);
		to = nm_endpoint6(p->key6.daddr, p->key6.dport);
		tag = (__u64)p->key6.protocol << 32 | p->key6.ifindex;
	} else {
		from = nm_endpoint4(p->key4.saddr, p->key4.sport);
		to = nm_endpoint4(p->key4.daddr, p->key4.dport);
		tag = (__u64)p->key4.protocol << 32 | p->key4.ifindex;
	}
	p->tag = 0;
	p->side = from > to;
	if (from == to)
		return 0; /* an endpoint talks to itself: the sides cannot be told apart */
	/* Includes the interface: only between packets seen at the same one is the time that of the path behind it. */
	tag = ((from + to) ^ tag) * NM_K1;
	tag = (tag ^ tag >> 32) * NM_K3 | 1;
	p->tag = tag;
	pair = nm_pair_at(tag, 0);
	if (!pair)
		return 0;
	units = nm_units(p); /* not computed earlier: it would be kept on the stack */
	if (pair->tag != tag) {
		other = nm_pair_at(tag, 1);
		if (!other)
			return 0;
		if (other->tag == tag || !nm_pair_free(pair, units))
			pair = other;
	}
	if (pair->tag != tag) {
		if (!take)
			return 0;
		if (!nm_pair_free(pair, units)) {
			cpu->unpaired++;
			return 0;
		}
		__builtin_memset(pair, 0, sizeof(*pair));
		pair->tag = tag;
	}
	if (pair->touched != units)
		pair->touched = units;
	return pair;
}

/* The pair that nm_pair_of found for this packet; 0 if there was none, or another connection has taken its slot since. */
static __always_inline struct nm_pair *nm_pair_again(const struct nm_packet *p)
{
	struct nm_pair *pair = p->tag ? nm_pair_at(p->tag, 0) : 0;

	if (pair && pair->tag != p->tag)
		pair = nm_pair_at(p->tag, 1);
	return pair && pair->tag == p->tag ? pair : 0;
}

/* The side that opened the connection, or NM_EITHER. */
static __always_inline __u8 nm_pair_client(const struct nm_pair *pair)
{
	return !(pair->flags & NM_PAIR_OPENED) ? NM_EITHER : pair->flags & NM_PAIR_CLIENT1 ? 1 : 0;
}
