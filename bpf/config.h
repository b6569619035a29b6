/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Settings that are fixed once the programs are loaded. The verifier takes them for constants: a branch they rule out is dead code. */
#pragma once

#define NM_VXLAN_PORTS 2

const volatile __u32 nm_shift4 = 12; /* log2 of the number of sets in each CPU's cache; at least NM_GROUPS_SHIFT */
const volatile __u32 nm_shift6 = 11;
const volatile __u32 nm_rings = 1;      /* 1 to NM_MAX_RINGS */
const volatile __u32 nm_wake_every = 1; /* the reader of a ring is woken after this many records from one CPU */
/* The network namespace the agent runs in. It identifies the owner of a filter that a killed agent left in another namespace. */
const volatile __u64 nm_home = 0;
const volatile __u64 nm_seed = 0;       /* of the hashes, so that nobody can aim packets at one set */
/* A tick is a jiffy, or in replayed captures a nanosecond. */
const volatile __u32 nm_idle = 1;       /* ticks without a packet after which an entry is reported */
const volatile __u32 nm_report = 2;     /* ticks after which a busy entry writes a record */
const volatile __u32 nm_forget = 30;    /* sweeps without a packet after which an entry leaves the cache */
const volatile __u64 nm_fragment_timeout = 30; /* ticks after which the ports of a datagram are forgotten */
const volatile __u32 nm_tick_ns = 1;
const volatile __u8 nm_clock = 0;       /* enum nm_clock_source */
const volatile __u8 nm_latency = 1;     /* 1: measure times */
const volatile __u8 nm_unit_shift = 0;  /* a unit is 2^n ticks, a millisecond or a few */
const volatile __u16 nm_probe_every = 250; /* units between two RTT probes of a direction; 0: back to back */
const volatile __u32 nm_pair_stale = 250; /* units after which another connection may take the slot of a silent one */
const volatile __u32 nm_pair_shift = 12; /* log2 of the slots of nm_pairs */
const volatile __u32 nm_sample_gap = 4; /* minimum ticks between records written only because the samples are full */
const volatile __u32 nm_apps = 0;       /* bit n: look for enum nm_app n; 0: look at no payload */
/* Look into tunnels. Ports in host order, 0: none; Linux and flannel used the second before a port was assigned to VXLAN. */
const volatile __u8 nm_decapsulate = 1;
const volatile __u16 nm_vxlan_ports[NM_VXLAN_PORTS] = { 4789, 8472 };
const volatile __u16 nm_geneve_port = 6081;
/* PREEMPT_RT: only a lock keeps packets of one CPU apart. Where programs may disable preemption, they do that instead. */
const volatile __u8 nm_preemptible = 0;
