/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Numbers that user space needs as well. The skeleton exports them to Rust, so that none is written twice. */
#pragma once

enum nm_number {
	/* Versions of the kinds of records: see struct nm_head. */
	NM_FLOW_VERSION = 1,
	NM_TRACED_VERSION = 1,

	NM_INNER = 2, /* in `hook` of a key: the packet was inside a tunnel packet seen at that hook */
	NM_ALERT = 31, /* bytes of the longest TLS alert: header 5, nonce 8, alert 2, tag 16 (RFC 5288) */

	/* The cache. */
	NM_WAYS = 4, /* entries in a set */
	NM_FACTS_SHIFT = 1, /* the entries of 2^n sets share one struct nm_facts */
	NM_GROUPS_SHIFT = 6,
	NM_GROUPS = 1 << NM_GROUPS_SHIFT, /* groups of sets in each cache; empty groups are not swept */
	NM_GROUP_MAX = 1024, /* largest number of sets in a group */
	/* Return values of nm_sweep other than the set to continue with. */
	NM_SWEEP_DONE = 0xfffffffeu,
	NM_SWEEP_BUSY = 0xffffffffu,

	NM_PAIRS = 4096, /* slots of the pairing table for each CPU; all CPUs share the table */
	NM_INTERFACES = 1024, /* slots for books on each CPU, a power of two; interfaces that find none free share an extra one */
	NM_PROBES = 8, /* slots tried for an interface */
	NM_MAX_RINGS = 64,
	NM_BATCH_FULL = 1024, /* bytes of records in a batch that is written before more are added */

	/* Samples: see struct nm_facts and enum nm_sample. */
	NM_SAMPLES = 4,
	NM_KIND_SHIFT = 56, /* enum nm_sample in the bits above, nanoseconds below */
	NM_OPENED_SHIFT = 38, /* the time below is at most 274 s; no SYN is retried for longer */
	NM_OPENED_UNIT = 8, /* low bits of that time that are dropped, so that 18 bits reach far enough */

	/* `app_version` of DNS. */
	NM_ASKS = 1,
	NM_ANSWERS = 2,

	/* The trace: see struct nm_test and enum nm_view_word. */
	NM_TESTS = 64, /* in a filter */
	/* Instead of the number of a test: the packet passes, or does not. */
	NM_PASSES = 254,
	NM_FAILS = 255,
	NM_NO_PROTOCOL = 256, /* in a view: not known */

	/* Parsers. */
	NM_EXTENSIONS = 8, /* extension headers walked; the flow of a packet with more has no ports */
	NM_SHIMS = 6, /* tags, labels and the like that are walked in addition to two VLAN tags */

	/* Detection: `offset` and `client` of struct nm_payload. */
	NM_MIDSTREAM = 0xffffffffu, /* not known: the connection was first seen midway */
	NM_CONTINUES = 0xfffffffeu, /* follows the previous payload */
	NM_EITHER = 2, /* the client is not known */

	/* The constants of the hashes are 64 bits wide, here as two halves: older compilers export no wider enum. */
	NM_K1_HIGH = 0x9e3779b9u,
	NM_K1_LOW = 0x7f4a7c15u,
	NM_K2_HIGH = 0xff51afd7u,
	NM_K2_LOW = 0xed558ccdu,
	NM_K3_HIGH = 0xc4ceb9feu,
	NM_K3_LOW = 0x1a85ec53u,
};
