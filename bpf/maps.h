/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#pragma once

/*
 * What belongs to one CPU is a stretch of a plain array: a lookup is then an addition, where a per-CPU map follows a
 * pointer, and calls a helper before Linux 6.10. User space sets max_entries: the CPUs times what each has.
 */

/* The flow cache: on each CPU two set-associative tables. */
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

/* Facts about entries, in as many stretches. */
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

/* Shared by all CPUs: the directions of a connection need not be seen on the same one. */
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

/* Shared by all CPUs: a datagram's fragments need not arrive on the same one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NM_FRAGMENTS);
	__type(key, __u32);
	__type(value, struct nm_fragment);
} nm_fragments SEC(".maps");

/* One ring a worker, made by user space before the programs attach. */
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
