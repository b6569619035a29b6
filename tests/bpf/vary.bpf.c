// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Stands in front of the program under test. vary_source gives each packet of a BPF_PROG_TEST_RUN the source address of
 * one of many flows: thousands of flows for one system call. vary_cut makes packets short.
 */
#include "vmlinux.h"
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum vary_order {
	VARY_IN_TURN = 0,
	VARY_RANDOM = 1,
	VARY_SKEWED = 2, /* the n-th flow gets about 1/n of the packets */
	VARY_CONNECTIONS = 3, /* TCP over IPv4 from SYN to the last ACK, `flows` connections at a time */
};

/* What a connection sends, in this order. */
static const struct vary_step {
	__u8 flags;
	__u8 reply; /* the server sends it */
} vary_steps[] = {
	{ 0x02, 0 }, { 0x12, 1 }, { 0x10, 0 }, { 0x18, 0 }, { 0x11, 0 }, { 0x11, 1 }, { 0x10, 0 },
};
#define VARY_STEPS (sizeof(vary_steps) / sizeof(vary_steps[0]))

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

/* Client `i` of 256 addresses and as many ports as it takes talks to the packet's destination. */
static __always_inline void vary_connection(struct iphdr *ip, struct tcphdr *tcp)
{
	__u32 n = vary.state++, block = vary.flows * VARY_STEPS;
	__u32 step = n % block / vary.flows, i = n / block * vary.flows + n % vary.flows;
	__be32 client = bpf_htonl(0x0a010000 + (i & 0xff)), server = bpf_htonl(0x0a000002);
	__be16 port = bpf_htons(i >> 8), listen = bpf_htons(80);
	bool reply = false;

	/* Spelled out: an index into a constant array would be a map lookup. */
#pragma unroll
	for (__u32 s = 0; s < VARY_STEPS; s++)
		if (step == s) {
			((__u8 *)tcp)[13] = vary_steps[s].flags;
			reply = vary_steps[s].reply;
		}
	ip->saddr = reply ? server : client;
	ip->daddr = reply ? client : server;
	tcp->source = reply ? listen : port;
	tcp->dest = reply ? port : listen;
}

SEC("tcx/ingress") /* as the program it runs: the kernel lets no others be chained */
int vary_source(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	__u32 i;

	if (data + sizeof(*eth) + sizeof(struct ipv6hdr) > end)
		return -1;
	if (vary.order == VARY_CONNECTIONS) {
		struct iphdr *ip = (void *)(eth + 1);

		vary_connection(ip, (struct tcphdr *)(ip + 1));
		bpf_tail_call_static(skb, &vary_next, 0);
		return -1;
	}
	i = vary_draw();
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

/* What benchmarks compare with. */
SEC("tcx/ingress")
int vary_empty(struct __sk_buff *skb)
{
	return skb ? -1 : 0;
}

char _license[] SEC("license") = "GPL";
