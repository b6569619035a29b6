// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Stands in front of the program under test. vary_source gives each packet of a BPF_PROG_TEST_RUN the source address of
 * one of many flows: thousands of flows for one system call. vary_cut makes packets short.
 */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum vary_order {
	VARY_IN_TURN = 0,
	VARY_RANDOM = 1,
	VARY_SKEWED = 2, /* the n-th flow gets about 1/n of the packets */
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} vary_next SEC(".maps");

/* Set by user space before a run. */
struct vary_state {
	__u32 state;
	__u32 order; /* enum vary_order */
	__u32 flows;
	__u32 bits; /* floor(log2(flows)) */
} vary = {};

static __always_inline __u32 vary_draw(void)
{
	__u32 i;

	if (vary.order == VARY_IN_TURN) {
		i = vary.state++;
		if (vary.state >= vary.flows)
			vary.state = 0;
		return i;
	}
	vary.state = vary.state * 1664525 + 1013904223;
	i = ((__u64)vary.state * vary.flows) >> 32;
	if (vary.order == VARY_SKEWED) {
		__u32 e = ((vary.state >> 16) * vary.bits) >> 16;

		vary.state = vary.state * 1664525 + 1013904223;
		i = (1u << (e & 31)) + ((vary.state >> 12) & ((1u << (e & 31)) - 1));
	}
	return i;
}

SEC("tcx/ingress") /* as the program it runs: the kernel lets no others be chained */
int vary_source(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	__u32 i = vary_draw();

	if (data + sizeof(*eth) + sizeof(struct ipv6hdr) > end)
		return -1;
	if (eth->h_proto == bpf_htons(0x0800))
		((struct iphdr *)(eth + 1))->saddr = bpf_htonl(0x0a000000 + i);
	else
		((struct ipv6hdr *)(eth + 1))->saddr.in6_u.u6_addr32[3] = bpf_htonl(i);
	bpf_tail_call_static(skb, &vary_next, 0);
	return -1;
}

/* Initialised, so that it lies apart from `vary`, which user space writes as a whole. */
__u32 vary_length = 1;

/*
 * Cuts the packet to vary_length bytes, then runs the program under test on it: newer kernels start no run with an IP
 * packet shorter than its header.
 */
SEC("tcx/ingress")
int vary_cut(struct __sk_buff *skb)
{
	if (!bpf_skb_change_tail(skb, *(volatile __u32 *)&vary_length, 0))
		bpf_tail_call_static(skb, &vary_next, 0);
	return 0; /* not what the program under test returns */
}

char _license[] SEC("license") = "GPL";
