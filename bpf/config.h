/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What is fixed for the life of a load. Constants to the verifier: a branch they rule out is dead code. */
#pragma once

const volatile __u32 nm_shift4 = 12; /* log2 of the sets of a CPU's caches; at least that of NM_GROUPS */
const volatile __u32 nm_shift6 = 11;
const volatile __u32 nm_rings = 1;      /* 1 to NM_MAX_RINGS */
const volatile __u32 nm_wake_every = 1; /* records of one CPU on one ring that wake its reader */
const volatile __u64 nm_seed = 0;       /* of the hashes: nobody shall aim at one set */
const volatile __u64 nm_idle = 1;       /* jiffies without a packet after which an entry leaves the cache */
const volatile __u64 nm_report = 2;     /* jiffies after which a busy entry writes a record */
const volatile __u64 nm_fragment_timeout = 30; /* jiffies; the ports of a datagram are forgotten */
const volatile __u64 nm_forget = 30; /* jiffies without a packet after which the state of a connection is dropped */
const volatile __u8 nm_clock = 0;    /* enum nm_clock_source */
const volatile __u8 nm_latency = 1;  /* measure times */
const volatile __u8 nm_probe_shift = 20; /* of nanoseconds: about a millisecond */
const volatile __u16 nm_probe_every = 954; /* of these between two RTT probes of a direction, 0: probe every segment */
const volatile __u32 nm_apps = 0xffffffff; /* bit n: enum nm_app n is looked for; 0: no payload is looked at */
/* PREEMPT_RT: packets of one CPU may interrupt each other. Needs bpf_preempt_disable (6.10). */
const volatile __u8 nm_preemptible = 0;
