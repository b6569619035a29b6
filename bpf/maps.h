/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#pragma once

/*
 * The data of one CPU is a range of a plain array: a lookup is then an addition, whereas a per-CPU map follows a pointer, and
 * before Linux 6.10 calls a helper. User space sets max_entries to the number of CPUs times the entries of each.
 */

/* The flow cache: two set-associative tables for each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct nm_set4);
} nm_cache4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2048);
	__type(key, __u32);
	__type(value, struct nm_set6);
} nm_cache6 SEC(".maps");

/* Facts about entries, one range for each CPU as above. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2048);
	__type(key, __u32);
	__type(value, struct nm_facts);
} nm_facts4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct nm_facts);
} nm_facts6 SEC(".maps");

/* Shared by all CPUs: the two directions of a connection may be seen on different ones. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NM_PAIRS);
	__type(key, __u32);
	__type(value, struct nm_pair);
} nm_pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nm_cpu);
} nm_cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, NM_INTERFACES + 1);
	__type(key, __u32);
	__type(value, struct nm_books);
} nm_interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nm_books_used);
} nm_books_used SEC(".maps");

/* Shared by all CPUs: the fragments of a datagram may arrive on different ones. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NM_FRAGMENTS);
	__type(key, __u32);
	__type(value, struct nm_fragment);
} nm_fragments SEC(".maps");

/* The records of each CPU for each ring. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nm_batch);
} nm_batches SEC(".maps");

/* One ring for each worker, created by user space before the programs attach. */
struct nm_ring_type {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, NM_MAX_RINGS);
	__type(key, __u32);
	__array(values, struct nm_ring_type);
} nm_ring SEC(".maps");
