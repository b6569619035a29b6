/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The trace: sends user space the headers and the fate of packets that pass a filter. Only the programs whose names end in _t have
 * it, and its maps exist only for them.
 */
#pragma once

/* What a filter can test, as the program parsed the packet: one number each. Addresses are in host order, word by word. */
enum nm_view_word {
	NM_VIEW_FAMILY,   /* 4, 6, or 0: not known */
	NM_VIEW_PROTOCOL, /* NM_NO_PROTOCOL: not known */
	NM_VIEW_SOURCE,   /* four words; IPv4 uses the first */
	NM_VIEW_DESTINATION = NM_VIEW_SOURCE + 4,
	NM_VIEW_SPORT = NM_VIEW_DESTINATION + 4,
	NM_VIEW_DPORT,
	NM_VIEW_TCP_FLAGS,
	NM_VIEW_ICMP_TYPE,
	NM_VIEW_ICMP_CODE,
	NM_VIEW_VLAN,     /* 0: none */
	NM_VIEW_INTERFACE,
	NM_VIEW_HOOK,
	NM_VIEW_FATE,     /* enum nm_fate */
	NM_VIEW_WORDS,
};

struct nm_view {
	__u32 word[NM_VIEW_WORDS];
	__u32 pad;
};

#define NM_SNAP 256 /* bytes of headers */

/* A traced packet as sent to user space. */
struct nm_traced {
	struct nm_head head;
	__u32 packets;
	__u64 ns;        /* as bpf_ktime_get_ns, or the time in the capture */
	__u64 bytes;     /* as accounted */
	__u32 length;    /* of the packet as the kernel passes it */
	__u32 seq;       /* TCP, or of an ICMP echo message */
	__u32 ack;
	__u16 window;
	__be16 vlan_proto; /* of a tag that the driver has stripped or will insert; 0: none */
	__u16 vlan_tci;
	__u16 captured;  /* bytes of `header` */
	__u8 views;      /* 1, or 2 if a tunnel carries a packet inside */
	__u8 ethernet;   /* `header` starts with Ethernet, else with IP */
	__u8 tunnel;     /* enum nm_app */
	__u8 pad[1];
	struct nm_view view[2];
	__u8 header[NM_SNAP];
};

_Static_assert(sizeof(struct nm_view) == 80 && sizeof(struct nm_traced) == 464, "as in src/bpf/traced.rs and event.rs");

/* The state of the trace on one CPU. */
struct nm_tracer {
	__u64 busy;    /* `packet` and `traced` are in use */
	__u64 matched; /* packets that passed the filter */
	__u64 held_back; /* of these, not sent because of the rate limit */
	__u64 lost;      /* the ring was full, or one packet interrupted the trace of another */
	__u64 packet[16]; /* as struct nm_packet */
	struct nm_traced traced;
};

_Static_assert(sizeof(struct nm_packet) == sizeof(((struct nm_tracer *)0)->packet), "room for a packet");

struct nm_trace_control {
	__u64 told;    /* packets sent by all CPUs */
	__u64 allowed; /* how many may be sent in all: user space raises it as time passes */
	__u32 filter;  /* index of the active filter */
	__u32 pad;
};

enum nm_trace_op {
	NM_MASKED,   /* the word and set[0] is set[1] */
	NM_AT_LEAST, /* the word is set[0] or more */
	NM_IN,       /* the word is n, and bit n of set is 1 */
};

/* A filter is a list of tests. Each names the test to continue with, which comes later in the list. */
struct nm_test {
	__u8 word; /* enum nm_view_word */
	__u8 op;   /* enum nm_trace_op */
	__u8 then; /* the next test if the word passes; else `otherwise` */
	__u8 otherwise;
	__u32 set[8];
};

struct nm_filter {
	struct nm_test test[NM_TESTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} nm_trace_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nm_tracer);
} nm_tracers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nm_trace_control);
} nm_trace_control SEC(".maps");

/* Two filters: the active one, and room for the next. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct nm_filter);
} nm_trace_filters SEC(".maps");

/* Runs one test: bit 0 of `of` is the view, bit 1 the filter. Returns the next test. A global function: the verifier walks it once. */
__noinline int nm_trace_test(__u32 id, __u32 of, __u32 at)
{
	struct nm_tracer *t = bpf_map_lookup_elem(&nm_tracers, &id);
	__u32 number = of >> 1 & 1, word, value;
	struct nm_filter *filter = bpf_map_lookup_elem(&nm_trace_filters, &number);
	struct nm_test *test;
	bool so = false;

	if (!t || !filter)
		return NM_FAILS;
	test = &filter->test[at & (NM_TESTS - 1)];
	word = test->word;
	if (word >= NM_VIEW_WORDS)
		return NM_FAILS;
	value = t->traced.view[of & 1].word[word];
	switch (test->op) {
	case NM_MASKED:
		so = (value & test->set[0]) == test->set[1];
		break;
	case NM_AT_LEAST:
		so = value >= test->set[0];
		break;
	case NM_IN:
		so = value < 256 && test->set[value >> 5 & 7] >> (value & 31) & 1;
		break;
	}
	return so ? test->then : test->otherwise;
}

static __always_inline bool nm_trace_passes(__u32 id, __u32 of)
{
	__u32 at = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < NM_TESTS && at < NM_TESTS; i++)
		at = nm_trace_test(id, of, at);
	return at == NM_PASSES;
}

/* Verdict, fate, framing and hook of a packet in one number. */
#define NM_TRACED(verdict, became, ethernet, hook) \
	((verdict) | NM_FATE_OF(became) << 4 | (ethernet) << 8 | ((hook) & 1) << 9)
#define NM_TRACED_VERDICT(traced) ((traced) & 15)
#define NM_TRACED_FATE(traced) ((traced) >> 4 & 15)
#define NM_TRACED_ETHERNET(traced) ((traced) >> 8 & 1)
#define NM_TRACED_HOOK(traced) ((traced) >> 9 & 1)
#define NM_NOT_TRACED (~0u)

static __always_inline void nm_view_flow(struct nm_view *view, __be16 sport, __be16 dport, __u8 protocol, __u16 vlan,
					 const struct nm_packet *p)
{
	bool icmp = nm_is_icmp(protocol);

	view->word[NM_VIEW_PROTOCOL] = protocol;
	/* ICMP identifiers are not ports. */
	view->word[NM_VIEW_SPORT] = icmp ? 0 : bpf_ntohs(sport);
	view->word[NM_VIEW_DPORT] = icmp ? 0 : bpf_ntohs(dport);
	view->word[NM_VIEW_TCP_FLAGS] = protocol == IPPROTO_TCP ? p->tcp_flags : 0;
	view->word[NM_VIEW_ICMP_TYPE] = icmp ? p->icmp >> 8 : 0;
	view->word[NM_VIEW_ICMP_CODE] = icmp ? p->icmp & 0xff : 0;
	view->word[NM_VIEW_VLAN] = vlan;
}

static __always_inline void nm_view_of(struct nm_view *view, __u32 ifindex, const struct nm_packet *p, __u32 traced)
{
	__builtin_memset(view, 0, sizeof(*view));
	view->word[NM_VIEW_PROTOCOL] = NM_NO_PROTOCOL;
	view->word[NM_VIEW_INTERFACE] = ifindex;
	view->word[NM_VIEW_HOOK] = NM_TRACED_HOOK(traced);
	view->word[NM_VIEW_FATE] = NM_TRACED_FATE(traced);
	if (NM_TRACED_VERDICT(traced) == NM_FLOW4) {
		const struct nm_key4 *key = &p->key4;

		view->word[NM_VIEW_FAMILY] = 4;
		view->word[NM_VIEW_SOURCE] = bpf_ntohl(key->saddr);
		view->word[NM_VIEW_DESTINATION] = bpf_ntohl(key->daddr);
		nm_view_flow(view, key->sport, key->dport, key->protocol, key->vlan, p);
	} else if (NM_TRACED_VERDICT(traced) == NM_FLOW6) {
		const struct nm_key6 *key = &p->key6;
		const __be32 *saddr = (const __be32 *)key->saddr, *daddr = (const __be32 *)key->daddr;

		view->word[NM_VIEW_FAMILY] = 6;
#pragma unroll
		for (int i = 0; i < 4; i++) {
			view->word[NM_VIEW_SOURCE + i] = bpf_ntohl(saddr[i]);
			view->word[NM_VIEW_DESTINATION + i] = bpf_ntohl(daddr[i]);
		}
		nm_view_flow(view, key->sport, key->dport, key->protocol, key->vlan, p);
	}
}

/* Length of the headers in bytes. For a malformed packet: the link layer's, and the length its IP header should have. */
static __always_inline __u32 nm_trace_headers(struct __sk_buff *skb, const struct nm_packet *p, __u32 traced)
{
	__u8 version = 0;

	if (NM_TRACED_VERDICT(traced) != NM_BROKEN)
		return p->headers;
	bpf_skb_load_bytes(skb, p->headers, &version, 1);
	return p->headers + (version >> 4 == 6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

/* Sends the packet in `t` to user space, within the rate limit. */
static __always_inline int nm_trace_tell(struct __sk_buff *skb, struct nm_tracer *t, const struct nm_packet *p, __u32 headers)
{
	struct nm_traced *traced = &t->traced;
	struct nm_trace_control *control;
	__u32 zero = 0;

	control = bpf_map_lookup_elem(&nm_trace_control, &zero);
	if (!control)
		return 0;
	t->matched++;
	if (control->told >= control->allowed) {
		t->held_back++;
		return 0;
	}
	__sync_fetch_and_add(&control->told, 1);
	traced->head = NM_HEAD(NM_KIND_TRACED, NM_TRACED_VERSION, sizeof(*traced));
	traced->ns = nm_clock == NM_CLOCK_CAPTURE ? p->now : bpf_ktime_get_ns();
	traced->bytes = p->bytes;
	traced->packets = p->packets;
	traced->length = skb->len;
	traced->seq = p->seq;
	traced->ack = p->ack;
	traced->window = p->window;
	traced->tunnel = traced->views > 1 ? p->tunnel : 0;
	traced->vlan_proto = skb->vlan_present ? skb->vlan_proto : 0;
	traced->vlan_tci = skb->vlan_present ? skb->vlan_tci : 0;
	if (headers > skb->len)
		headers = skb->len;
	if (headers > NM_SNAP)
		headers = NM_SNAP;
	traced->captured = headers;
	/* Written as a sum whose bounds even old verifiers see. */
	headers = ((headers - 1) & (NM_SNAP - 1)) + 1;
	if (bpf_skb_load_bytes(skb, 0, traced->header, headers))
		traced->captured = 0;
	if (bpf_ringbuf_output(&nm_trace_ring, traced, sizeof(*traced), BPF_RB_NO_WAKEUP))
		t->lost++;
	return 0;
}

/* Traces the packet in its CPU's tracer; a packet inside, if traced, is in the CPU's `inner`. Global, like nm_trace_test. */
__noinline int nm_trace_packet(struct __sk_buff *skb, __u32 id, __u32 outer, __u32 inner)
{
	__u32 zero = 0, ifindex = skb->ifindex, of, headers;
	struct nm_tracer *t = bpf_map_lookup_elem(&nm_tracers, &id);
	struct nm_trace_control *control = bpf_map_lookup_elem(&nm_trace_control, &zero);
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	const struct nm_packet *p;

	if (!t || !control || !cpu)
		return 0;
	p = (const struct nm_packet *)t->packet;
	of = (control->filter & 1) << 1;
	headers = nm_trace_headers(skb, p, outer);
	nm_view_of(&t->traced.view[0], ifindex, p, outer);
	t->traced.views = 1;
	t->traced.ethernet = NM_TRACED_ETHERNET(outer);
	if (inner != NM_NOT_TRACED) {
		headers = nm_trace_headers(skb, nm_inner_of(cpu), inner);
		nm_view_of(&t->traced.view[1], ifindex, nm_inner_of(cpu), inner);
		t->traced.views = 2;
	}
	if (nm_trace_passes(id, of) || (inner != NM_NOT_TRACED && nm_trace_passes(id, of | 1)))
		nm_trace_tell(skb, t, p, headers);
	return 0;
}

static __always_inline void nm_trace(struct __sk_buff *skb, __u32 id, const struct nm_packet *p, __u32 outer, __u32 inner)
{
	struct nm_tracer *t = bpf_map_lookup_elem(&nm_tracers, &id);

	if (!t)
		return;
	if (t->busy) {
		t->lost++;
		return;
	}
	t->busy = 1;
	nm_barrier();
	*(struct nm_packet *)t->packet = *p;
	nm_trace_packet(skb, id, outer, inner);
	nm_barrier();
	t->busy = 0;
}
