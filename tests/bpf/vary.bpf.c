// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Runs in front of the program under test. vary_source gives each packet of a BPF_PROG_TEST_RUN the source address of
 * one of many flows, so that one system call covers thousands of flows. vary_cut shortens packets.
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
	VARY_STREAM = 4, /* one flow, TCP or UDP */
	VARY_DATA = 5, /* at random, TCP over IPv4; the data of each flow are in order */
};

/* The packets of a connection, in this order. */
static const struct vary_step {
	__u8 flags;
	__u8 reply;    /* the server sends it */
	__u8 seq, ack; /* relative to the initial numbers */
	__u8 data;     /* payloads sent before by the client (1) and by the server (2); whether this has one (4) */
} vary_steps[] = {
	{ 0x02, 0, 0, 0, 0 }, { 0x12, 1, 0, 1, 0 }, { 0x10, 0, 1, 1, 0 }, { 0x18, 0, 1, 1, 4 }, { 0x18, 1, 1, 1, 1 | 4 },
	{ 0x11, 0, 1, 1, 3 }, { 0x11, 1, 1, 2, 3 }, { 0x10, 0, 2, 2, 3 },
};
#define VARY_STEPS (sizeof(vary_steps) / sizeof(vary_steps[0]))

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} vary_next SEC(".maps");

/* The next sequence number of each flow, for VARY_DATA. */
#define VARY_FLOWS 131072
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VARY_FLOWS);
	__type(key, __u32);
	__type(value, __u32);
} vary_seq SEC(".maps");

/* Set by user space before a run. */
struct vary_state {
	__u32 state;
	__u32 order; /* enum vary_order */
	__u32 flows;
	__u32 bits; /* floor(log2(flows)) */
} vary = {};

/* Separate from the state that user space writes. */
__u32 vary_sent SEC(".data.sent") = 1;

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

/* Makes the segments of a flow consecutive: data in order, ACKs that advance. */
static __always_inline void vary_advance(struct tcphdr *tcp, __u32 payload)
{
	__u32 n = ++vary_sent;

	if (payload)
		tcp->seq = bpf_htonl(n * payload);
	else
		tcp->ack_seq = bpf_htonl(n);
}

/* Client `i`, one of 256 addresses with as many ports as necessary, sends to the packet's destination. */
static __always_inline void vary_connection(struct iphdr *ip, struct tcphdr *tcp)
{
	__u32 n = vary.state++, block = vary.flows * VARY_STEPS;
	__u32 step = n % block / vary.flows, i = n / block * vary.flows + n % vary.flows;
	__be32 client = bpf_htonl(0x0a010000 + (i & 0xff)), server = bpf_htonl(0x0a000002);
	__be16 port = bpf_htons(i >> 8), listen = bpf_htons(80);
	__u32 length = bpf_ntohs(ip->tot_len) - sizeof(*ip) - sizeof(*tcp), seq = 0, ack = 0;
	bool reply = false;

	/* Unrolled, because an index into a constant array would be a map lookup. */
#pragma unroll
	for (__u32 s = 0; s < VARY_STEPS; s++)
		if (step == s) {
			((__u8 *)tcp)[13] = vary_steps[s].flags;
			reply = vary_steps[s].reply;
			seq = vary_steps[s].seq + (vary_steps[s].data & (reply ? 2 : 1) ? length : 0);
			ack = vary_steps[s].ack + (vary_steps[s].data & (reply ? 1 : 2) ? length : 0);
			if (!(vary_steps[s].data & 4))
				ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*tcp)); /* the rest is padding */
		}
	tcp->seq = bpf_htonl(seq);
	tcp->ack_seq = bpf_htonl(ack);
	ip->saddr = reply ? server : client;
	ip->daddr = reply ? client : server;
	tcp->source = reply ? listen : port;
	tcp->dest = reply ? port : listen;
}

/* Flow `i` sends its next data. */
static __always_inline void vary_data(struct iphdr *ip, struct tcphdr *tcp, __u32 i)
{
	__u32 k = i & (VARY_FLOWS - 1), *seq = bpf_map_lookup_elem(&vary_seq, &k);

	if (!seq)
		return;
	tcp->seq = bpf_htonl(*seq);
	*seq += bpf_ntohs(ip->tot_len) - sizeof(*ip) - (((__u8 *)tcp)[12] >> 4) * 4;
}

SEC("tcx/ingress") /* the same as the program it calls: the kernel chains no others */
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
	i = vary.order == VARY_STREAM ? 1 : vary_draw();
	if (eth->h_proto == bpf_htons(0x0800)) {
		struct iphdr *ip = (void *)(eth + 1);
		struct tcphdr *tcp = (void *)(ip + 1);

		ip->saddr = bpf_htonl(0x0a000000 + i);
		if (ip->protocol != IPPROTO_TCP || (void *)(tcp + 1) > end)
			goto next;
		if (vary.order == VARY_DATA)
			vary_data(ip, tcp, i);
		else
			vary_advance(tcp, bpf_ntohs(ip->tot_len) - sizeof(*ip) - (((__u8 *)tcp)[12] >> 4) * 4);
	} else {
		struct ipv6hdr *ip = (void *)(eth + 1);
		struct tcphdr *tcp = (void *)(ip + 1);

		ip->saddr.in6_u.u6_addr32[3] = bpf_htonl(i);
		if (ip->nexthdr == IPPROTO_TCP && (void *)(tcp + 1) <= end)
			vary_advance(tcp, bpf_ntohs(ip->payload_len) - (((__u8 *)tcp)[12] >> 4) * 4);
	}
next:
	bpf_tail_call_static(skb, &vary_next, 0);
	return -1;
}

/* Initialised, so that it is in another section than `vary`, which user space writes as a whole. */
__u32 vary_length = 1;

/*
 * Cuts the packet to vary_length bytes, then runs the program under test on it: newer kernels refuse to run programs on
 * an IP packet shorter than its header.
 */
SEC("tcx/ingress")
int vary_cut(struct __sk_buff *skb)
{
	if (!bpf_skb_change_tail(skb, *(volatile __u32 *)&vary_length, 0))
		bpf_tail_call_static(skb, &vary_next, 0);
	return 0; /* differs from what the program under test returns */
}

/* The baseline of benchmarks. */
SEC("tcx/ingress")
int vary_empty(struct __sk_buff *skb)
{
	return skb ? -1 : 0;
}

char _license[] SEC("license") = "GPL";
