// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Entry points. Each program sees every packet of one hook and lets it pass. */
#include "vmlinux.h"
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "types.h"
#include "config.h"
#include "maps.h"
#include "hash.h"
#include "packet.h"
#include "clock.h"
#include "fragment.h"
#include "shims.h"
#include "parse_any.h"
#include "parse.h"
#include "books.h"
#include "ring.h"
#include "entry.h"
#include "pair.h"
#include "measure.h"
#include "l7.h"
#include "look.h"
#include "tcp.h"
#include "datagram.h"
#include "quote.h"
#include "cache.h"
#include "tunnel.h"
#include "trace.h"
#include "sweep.h"

#define NM_PASS -1 /* TC_ACT_UNSPEC and TCX_NEXT: the chain goes on */

extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

struct sk_buff___hook {
	__u8 tc_at_ingress : 1;
} __attribute__((preserve_access_index));

static __always_inline __u8 nm_hook(struct __sk_buff *skb)
{
	const struct sk_buff___hook *kernel = bpf_cast_to_kern_ctx(skb);

	/* Computed: after a branch, the verifier would follow everything once for each hook. */
	return BPF_CORE_READ_BITFIELD(kernel, tc_at_ingress) ^ NM_EGRESS;
}

#define NM_ANY_HOOK NM_HOOKS /* instead of a hook: the packet shows at which it is */

/* `at` and `trace` are compile-time constants: programs contain no code for what they do not do. */
static __always_inline int nm_observe(struct __sk_buff *skb, const __u8 at, bool ethernet, const bool trace)
{
	__u8 hook = at == NM_ANY_HOOK ? nm_hook(skb) : at;
	__u32 outer, inner = NM_NOT_TRACED;
	struct nm_packet p;
	int became;
	int verdict = nm_parse(skb, ethernet, hook, &p);
	__u32 id = bpf_get_smp_processor_id(), opened = 0;
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_books *books = nm_books_of(id, skb->ifindex);

	if (!cpu || !books)
		return NM_PASS; /* cannot happen: the arrays have room for every CPU */
	if (nm_preemptible)
		bpf_preempt_disable();
	if (nm_decapsulate && (verdict == NM_FLOW4 || verdict == NM_FLOW6) && p.tunnel) {
		opened = nm_tunnel_open(skb, id, p.headers, p.headers + p.payload, hook << 8 | p.tunnel);
		p.tunnel = NM_OPENED_TUNNEL(opened);
		if (opened)
			p.headers = NM_OPENED_HEADERS(opened);
	}
	p.cpu = id;
	p.packets = nm_segments(skb, p.headers);
	p.bytes = nm_wire(skb) - p.unsent + (__u64)(p.packets - 1) * (p.headers - p.unsent);
	if (skb->vlan_present)
		p.bytes += p.packets * sizeof(struct vlan_hdr);
	nm_count(&books->seen[hook & 1], p.packets, p.bytes);
	books->whole[hook & 1]++;
	if (verdict == NM_FLOW4) {
		became = nm_account4(skb, cpu, &p);
		nm_finish(skb, cpu, &p, became);
		outer = NM_TRACED(NM_FLOW4, became, ethernet, hook);
	} else if (verdict == NM_FLOW6) {
		became = nm_account6(skb, cpu, &p);
		nm_finish(skb, cpu, &p, became);
		outer = NM_TRACED(NM_FLOW6, became, ethernet, hook);
	} else {
		nm_ignore(books, verdict, &p);
		outer = NM_TRACED(verdict, nm_ignored_as(verdict), ethernet, hook);
	}
	if (nm_decapsulate && opened) {
		became = nm_account_inner(skb, cpu, p.cpu, NM_OPENED_VERDICT(opened));
		inner = NM_TRACED(NM_OPENED_VERDICT(opened), became, 0, hook);
	}
	/* Not `id`: a variable kept across the calls above needs stack space, and on Linux 5.10 none is left. */
	if (trace)
		nm_trace(skb, p.cpu, &p, outer, inner);
	if (nm_preemptible)
		bpf_preempt_enable();
	return NM_PASS;
}

/*
 * User space chooses which programs are loaded, which the `?` stands for.
 *
 * One program for both hooks, where the kernel lets it see at which it runs (Linux 6.2). The answer to a packet often passes the
 * other hook within microseconds, while the code is still in the processor's caches.
 */
SEC("?tcx/ingress")
int nm_both(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_ANY_HOOK, true, false);
}

SEC("?tcx/ingress")
int nm_both_l3(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_ANY_HOOK, false, false);
}

/* A program for each hook, for other kernels, and for injected packets, which are at no hook. */
SEC("?tcx/ingress")
int nm_ingress(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_INGRESS, true, false);
}

SEC("?tcx/egress")
int nm_egress(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_EGRESS, true, false);
}

/* Interfaces whose packets start with the IP header: tun, wireguard, ipip. */
SEC("?tcx/ingress")
int nm_ingress_l3(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_INGRESS, false, false);
}

SEC("?tcx/egress")
int nm_egress_l3(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_EGRESS, false, false);
}

/* The same programs with a trace. They replace the others while somebody traces. */
SEC("?tcx/ingress")
int nm_both_t(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_ANY_HOOK, true, true);
}

SEC("?tcx/ingress")
int nm_both_l3_t(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_ANY_HOOK, false, true);
}

SEC("?tcx/ingress")
int nm_ingress_t(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_INGRESS, true, true);
}

SEC("?tcx/egress")
int nm_egress_t(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_EGRESS, true, true);
}

SEC("?tcx/ingress")
int nm_ingress_l3_t(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_INGRESS, false, true);
}

SEC("?tcx/egress")
int nm_egress_l3_t(struct __sk_buff *skb)
{
	return nm_observe(skb, NM_EGRESS, false, true);
}

/*
 * One slice of the sweep, run by user space on the CPU whose cache it sweeps (on any CPU once no more packets come). It can
 * interrupt the packet path there, or be interrupted by it, at any point: `busy` makes the second to arrive back off.
 * Arguments: the CPU; 1 for IPv6; the set to start with; 1 to empty the cache; the current time in a replay of a capture.
 */
SEC("raw_tp")
int nm_sweep(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 id = ctx->args[0], from = ctx->args[2], next;
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	bool v6 = ctx->args[1], all = ctx->args[3];

	if (!cpu || cpu->busy)
		return NM_SWEEP_BUSY;
	cpu->busy = 1;
	nm_barrier();
	cpu->monotonic_ns = bpf_ktime_get_ns();
	cpu->jiffies = nm_clock == NM_CLOCK_CAPTURE ? ctx->args[4] : bpf_jiffies64();
	next = v6 ? nm_sweep_slice(cpu, true, id, from, all) : nm_sweep_slice(cpu, false, id, from, all);
	if (next == NM_SWEEP_DONE)
		nm_flush_all(id);
	nm_barrier();
	cpu->busy = 0;
	return next;
}

/* The skeleton exports only types that something refers to. */
static const enum nm_number *nm_export_number __attribute__((used));
static const enum nm_kind *nm_export_kind __attribute__((used));
static const enum nm_state *nm_export_state __attribute__((used));
static const enum nm_ignored *nm_export_ignored __attribute__((used));
static const struct nm_head *nm_export_head __attribute__((used));
static const struct nm_noted4 *nm_export_noted4 __attribute__((used));
static const struct nm_noted6 *nm_export_noted6 __attribute__((used));
static const struct nm_traced *nm_export_traced __attribute__((used));
static const struct nm_entry4 *nm_export_entry4 __attribute__((used));
static const struct nm_entry6 *nm_export_entry6 __attribute__((used));
static const enum nm_cause *nm_export_cause __attribute__((used));
static const enum nm_hook *nm_export_hook __attribute__((used));
static const enum nm_app *nm_export_app __attribute__((used));
static const enum nm_sample *nm_export_sample __attribute__((used));
static const enum nm_clock_source *nm_export_clock_source __attribute__((used));
static const struct nm_facts *nm_export_facts __attribute__((used));
static const enum nm_fate *nm_export_fate __attribute__((used));
static const enum nm_view_word *nm_export_view_word __attribute__((used));
static const enum nm_trace_op *nm_export_trace_op __attribute__((used));

char _license[] SEC("license") = "GPL";
