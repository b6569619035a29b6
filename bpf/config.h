/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What is fixed for the life of a load. Constants to the verifier: a branch they rule out is dead code. */
#pragma once

#define NM_VXLAN_PORTS 2

const volatile __u32 nm_shift4 = 12; /* log2 of the sets of a CPU's caches; at least that of NM_GROUPS */
const volatile __u32 nm_shift6 = 11;
const volatile __u32 nm_rings = 1;      /* 1 to NM_MAX_RINGS */
const volatile __u32 nm_wake_every = 1; /* records of one CPU on one ring that wake its reader */
/* Of the network namespace that the agent lives in: whose a filter is that a killed agent has left in another one. */
const volatile __u64 nm_home = 0;
const volatile __u64 nm_seed = 0;       /* of the hashes: nobody shall aim at one set */
/* A tick is a jiffy, in replayed captures a nanosecond. */
const volatile __u32 nm_idle = 1;       /* ticks without a packet after which an entry is reported */
const volatile __u32 nm_report = 2;     /* ticks after which a busy entry writes a record */
const volatile __u32 nm_forget = 30;    /* sweeps without a packet after which an entry leaves the cache */
const volatile __u64 nm_fragment_timeout = 30; /* ticks; the ports of a datagram are forgotten */
const volatile __u32 nm_tick_ns = 1;
const volatile __u8 nm_clock = 0;       /* enum nm_clock_source */
const volatile __u8 nm_latency = 1;     /* measure times */
const volatile __u8 nm_unit_shift = 0;  /* a unit is 2^n ticks, a millisecond or a few */
const volatile __u16 nm_probe_every = 250; /* units between two RTT probes of a direction; 0: one after the other */
const volatile __u32 nm_pair_stale = 250; /* units after which another connection may have the place of a silent one */
const volatile __u32 nm_pair_shift = 12; /* log2 of the slots of nm_pairs */
const volatile __u32 nm_sample_gap = 4; /* ticks between records that are written because there are many samples */
const volatile __u32 nm_apps = 0;       /* bit n: enum nm_app n is looked for; 0: no payload is looked at */
/* Look into tunnels. Ports in host order, 0: none; the second is what Linux and flannel used before there was a number. */
const volatile __u8 nm_decapsulate = 1;
const volatile __u16 nm_vxlan_ports[NM_VXLAN_PORTS] = { 4789, 8472 };
const volatile __u16 nm_geneve_port = 6081;
/* PREEMPT_RT: packets of one CPU take turns by a lock; where programs may forbid preemption, they do not rely on it. */
const volatile __u8 nm_preemptible = 0;
