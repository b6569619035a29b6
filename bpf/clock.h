/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Two clocks: ticks, which cost next to nothing, for every packet; nanoseconds for measurements. */
#pragma once

static __always_inline __u64 nm_now(struct __sk_buff *skb)
{
	return nm_clock == NM_CLOCK_CAPTURE ? skb->tstamp : bpf_jiffies64();
}

/* The time in coarser units, which fit 16 or 32 bits. */
static __always_inline __u32 nm_units(const struct nm_packet *p)
{
	return p->now >> nm_unit_shift;
}

/* Bytes of the packet on the wire: a capture may hold fewer. */
static __always_inline __u32 nm_wire(struct __sk_buff *skb)
{
	__u32 wire = nm_clock == NM_CLOCK_CAPTURE ? skb->cb[0] : 0;

	return wire > skb->len ? wire : skb->len;
}

/* Nanoseconds, read at most once per packet: in captures from the first packet's time on, otherwise since boot; never 0. */
static __always_inline __u64 nm_precise(struct nm_packet *p)
{
	if (nm_clock == NM_CLOCK_CAPTURE)
		return p->now;
	if (!p->ns)
		p->ns = bpf_ktime_get_ns();
	return p->ns;
}

static __always_inline __u64 nm_stamp_tag(const struct nm_packet *p)
{
	return p->tag << 48;
}

/*
 * The packet's time as a stamp of its connection. The NIC's clock differs from the kernel's: its stamps are used only if the
 * packets of both sides carry them, so that times of different clocks are never subtracted.
 */
static __always_inline __u64 nm_stamp(struct nm_cpu *cpu, struct nm_pair *pair, struct nm_packet *p)
{
	if (nm_clock == NM_CLOCK_HARDWARE) {
		if (p->hardware) {
			pair->hardware |= 1 << p->side;
			if (pair->hardware == 3) {
				cpu->stamps[1]++;
				return nm_stamp_tag(p) | NM_STAMP_HARDWARE | (p->hardware & NM_STAMP_NS);
			}
		}
		cpu->stamps[0]++;
	}
	return nm_stamp_tag(p) | (nm_precise(p) & NM_STAMP_NS);
}

#define NM_NEVER (~0ull)

/* Nanoseconds from `stamp` to the packet; NM_NEVER if the stamp is from another connection or clock, or later than the packet. */
static __always_inline __u64 nm_since(__u64 stamp, struct nm_packet *p)
{
	__u64 now, ns;

	if (!stamp || (stamp ^ nm_stamp_tag(p)) >> 48)
		return NM_NEVER;
	if (nm_clock == NM_CLOCK_HARDWARE && stamp & NM_STAMP_HARDWARE) {
		now = p->hardware;
		if (!now)
			return NM_NEVER;
	} else {
		now = nm_precise(p);
	}
	ns = (now - stamp) & NM_STAMP_NS;
	return ns > NM_STAMP_NS / 2 ? NM_NEVER : ns;
}
