/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Ports for fragments that carry no transport header: the first fragment of a datagram leaves them here, the others
 * find them by addresses and identification. A direct-mapped array: a collision costs the ports, not the packet.
 */
#pragma once

/* Identifies a datagram by its addresses, identification and protocol as in the IP header (or fragment header). */
static __always_inline __u64 nm_datagram(__u64 addresses, __u32 id, __u8 protocol)
{
	__u64 h = (addresses ^ nm_seed) * NM_K2 + ((__u64)id << 8 | protocol) * NM_K1;

	h ^= h >> 29;
	return h * NM_K3;
}

static __always_inline struct nm_fragment *nm_fragment_slot(__u64 datagram)
{
	__u32 i = (datagram >> 32) & (NM_FRAGMENTS - 1);

	return bpf_map_lookup_elem(&nm_fragments, &i);
}

static __always_inline __u64 nm_fragment_tag(__u64 datagram)
{
	/* From the bits below those that select the slot; never 0, which marks an unused slot. */
	return (datagram >> 8 << 40) | 1ull << 63;
}

/* From the bits above those that select the slot. */
static __always_inline __u32 nm_fragment_more(__u64 datagram)
{
	return datagram >> 44;
}

/* Stores the ports. ICMP has a single identifier for both, so `dport` holds its type and code instead. */
static __always_inline void nm_fragment_put(__u64 datagram, __u64 now, __u8 protocol, __be16 sport, __be16 dport)
{
	struct nm_fragment *f = nm_fragment_slot(datagram);

	if (!f)
		return;
	f->seen = now;
	f->more = nm_fragment_more(datagram);
	*(volatile __u64 *)&f->word =
		nm_fragment_tag(datagram) | (__u64)protocol << 32 | (__u64)sport << 16 | dport;
}

/* The word stored for the datagram's first fragment; 0 if that was not seen. */
static __always_inline __u64 nm_fragment_get(__u64 datagram, __u64 now)
{
	struct nm_fragment *f = nm_fragment_slot(datagram);
	__u64 word;

	if (!f)
		return 0;
	word = *(volatile __u64 *)&f->word;
	if (word >> 40 != nm_fragment_tag(datagram) >> 40 || f->more != nm_fragment_more(datagram) ||
	    (__u32)now - f->seen > nm_fragment_timeout)
		return 0;
	return word;
}
