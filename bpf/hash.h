/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Hashes of a key: one that spreads entries over the cache, one that is the same for both directions of a flow. */
#pragma once

#define NM_K1 ((__u64)NM_K1_HIGH << 32 | NM_K1_LOW)
#define NM_K2 ((__u64)NM_K2_HIGH << 32 | NM_K2_LOW)
#define NM_K3 ((__u64)NM_K3_HIGH << 32 | NM_K3_LOW)
#define NM_K4 0x2545f4914f6cdd1dull

static __always_inline __u32 nm_fold(__u64 h)
{
	h ^= h >> 32;
	h *= NM_K1;
	return h >> 32;
}

/* `size` is that of struct nm_key4 or nm_key6. */
static __always_inline __u32 nm_hash(const void *key, const __u32 size)
{
	const __u64 *w = key;
	__u64 h = (w[0] ^ nm_seed) * NM_K1 ^ (w[1] + nm_seed) * NM_K2;

	h = (h ^ h >> 29) + w[2] * NM_K3;
	if (size == sizeof(struct nm_key6))
		h = ((h ^ h >> 31) + w[3] * NM_K4 ^ (w[4] + nm_seed) * NM_K2) + w[5] * NM_K1;
	return nm_fold(h);
}

static __always_inline __u64 nm_endpoint4(__be32 address, __be16 port)
{
	__u64 h = (((__u64)address << 16 | port) ^ nm_seed) * NM_K2;

	return (h ^ h >> 32) * NM_K3;
}

static __always_inline __u64 nm_endpoint6(const __u8 *address, __be16 port)
{
	const __u64 *w = (const void *)address;
	__u64 h = (w[0] ^ nm_seed) * NM_K1 + (w[1] ^ port) * NM_K2;

	return (h ^ h >> 32) * NM_K3;
}

/* The same for both directions of a connection and at every hook. */
static __always_inline __u64 nm_symmetric(const void *key, const __u32 size)
{
	if (size == sizeof(struct nm_key6)) {
		const struct nm_key6 *k = key;

		return nm_endpoint6(k->saddr, k->sport) + nm_endpoint6(k->daddr, k->dport);
	} else {
		const struct nm_key4 *k = key;

		return nm_endpoint4(k->saddr, k->sport) + nm_endpoint4(k->daddr, k->dport);
	}
}

/* True if the flow of this key is not in the sample. Connections are in it as a whole: both directions have the same hash. */
static __always_inline bool nm_is_left_out(const void *key, const __u32 size, __u32 sample)
{
	__u64 h = nm_symmetric(key, size);

	return sample && (__u32)((h ^ h >> 29) * NM_K4 >> 32) >= sample; /* not the bits that choose the ring */
}
