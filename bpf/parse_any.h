/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Derives the flow key of any packet: any chain of headers, whether in the linear part or not. */
#pragma once

/* The position of the parser. */
struct nm_cursor {
	struct __sk_buff *skb;
	__u32 at;
	__u32 end;  /* end of the part of the IP packet that is present: padding may follow */
	__u32 wire; /* end of the IP packet on the wire */
	__u32 cut;  /* the rest of the packet comes in further fragments: the length in its header counts */
	__u64 copy[5];
};

/* A copy of the next `size` bytes, or 0 if the packet ends before. Does not advance. */
static __always_inline const void *nm_header(struct nm_cursor *c, const __u32 size)
{
	if (c->at + size > c->end || bpf_skb_load_bytes(c->skb, c->at, c->copy, size))
		return 0;
	return c->copy;
}

struct nm_transport {
	__u8 protocol;
	__u8 fragment;      /* not the first fragment of its datagram */
	__u8 first_of_many; /* the first of several fragments */
	__be16 sport;
	__be16 dport;
	__u64 datagram;
};

/* Every extension header is at least this long and starts with the type of the next header and its own length. */
struct nm_extension {
	__u8 nexthdr;
	__u8 hdrlen;
	__be16 frag_off; /* fragment header only */
	__be32 identification;
};

#define NM_OPTION_JUMBO 0xc2 /* RFC 2675 */

#define NM_EXT_LENGTH(ext) ((ext) & 0xfff)
#define NM_EXT_NEXT(ext) ((ext) >> 16 & 0xff)
#define NM_EXT_FIRST (1 << 24) /* first of several fragments */
#define NM_EXT_LATER (1 << 25) /* a later one */
#define NM_EXT_NONE 0          /* `type` is not an extension header */
#define NM_EXT_CUT -1

/*
 * Reads the extension header at `at`; for IPv4 only AH counts as one. Returns NM_EXT_*. A global function: the verifier walks it
 * once and assumes any result; inlined in a loop, it would follow every combination of headers.
 */
__noinline int nm_extension(struct __sk_buff *skb, __u32 at, __u32 type, __u32 v6)
{
	struct nm_extension ext;
	__u32 length, offset, flags = 0;

	if (type != NM_AH &&
	    (!v6 || (type != NM_HOPOPTS && type != NM_ROUTING && type != NM_DSTOPTS && type != NM_FRAGMENT)))
		return NM_EXT_NONE;
	if (bpf_skb_load_bytes(skb, at, &ext, sizeof(ext)))
		return NM_EXT_CUT;
	if (type == NM_FRAGMENT) {
		offset = bpf_ntohs(ext.frag_off);
		length = sizeof(ext);
		if (offset & NM_IP6_OFFSET)
			flags = NM_EXT_LATER;
		else if (offset & NM_IP6_MORE_FRAGMENTS) /* else an atomic fragment, RFC 6946 */
			flags = NM_EXT_FIRST;
	} else {
		/* RFC 4302 2.2 counts units of 4 bytes minus two, RFC 8200 units of 8 bytes minus one. */
		length = type == NM_AH ? (ext.hdrlen + 2) * 4 : (ext.hdrlen + 1) * 8;
	}
	return length | (__u32)ext.nexthdr << 16 | flags;
}

static __always_inline bool nm_parse_extensions(struct nm_cursor *c, struct nm_transport *t, bool v6, __u64 addresses)
{
	__u32 fragment_at = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < NM_EXTENSIONS; i++) {
		int ext = nm_extension(c->skb, c->at, t->protocol, v6);

		if (ext == NM_EXT_NONE)
			break;
		if (ext == NM_EXT_CUT || c->at + NM_EXT_LENGTH(ext) > c->end)
			return false;
		if (ext & (NM_EXT_FIRST | NM_EXT_LATER))
			fragment_at = c->at;
		t->fragment = !!(ext & NM_EXT_LATER);
		t->protocol = NM_EXT_NEXT(ext);
		c->at += NM_EXT_LENGTH(ext);
		if (t->fragment)
			break;
	}
	if (fragment_at) {
		struct nm_extension ext;

		if (bpf_skb_load_bytes(c->skb, fragment_at, &ext, sizeof(ext)))
			return false;
		t->datagram = nm_datagram(addresses, ext.identification, ext.nexthdr);
		t->first_of_many = !t->fragment;
	}
	return true;
}

static __always_inline bool nm_is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == NM_ICMPV6;
}

static __always_inline bool nm_parse_transport(struct nm_cursor *c, struct nm_transport *t, struct nm_packet *p)
{
	switch (t->protocol) {
	case IPPROTO_TCP: {
		const struct tcphdr *tcp = nm_header(c, sizeof(*tcp));
		__u32 length;

		if (!tcp)
			return false;
		length = (((const __u8 *)tcp)[12] >> 4) * 4;
		if (length < sizeof(*tcp) || c->at + length > c->end)
			return false;
		t->sport = tcp->source;
		t->dport = tcp->dest;
		nm_packet_tcp(p, tcp);
		c->at += length;
		break;
	}
	case IPPROTO_UDP: {
		const struct udphdr *udp = nm_header(c, sizeof(*udp));

		if (!udp)
			return false;
		t->sport = udp->source;
		t->dport = udp->dest;
		c->at += sizeof(*udp);
		break;
	}
	case IPPROTO_SCTP: {
		const struct sctphdr *sctp = nm_header(c, sizeof(*sctp));
		const __u8 *chunk;

		if (!sctp)
			return false;
		t->sport = sctp->source;
		t->dport = sctp->dest;
		c->at += sizeof(*sctp);
		chunk = nm_header(c, 1);
		/* INIT and INIT ACK are alone in their packets, RFC 9260 6.10. */
		p->opening = !chunk ? 0 : *chunk == 1 ? NM_SYN : *chunk == 2 ? NM_SYN_ACK : 0;
		break;
	}
	case IPPROTO_ICMP:
	case NM_ICMPV6: {
		const struct icmphdr *icmp = nm_header(c, sizeof(*icmp));
		bool v6 = t->protocol == NM_ICMPV6;

		if (!icmp)
			return false;
		p->icmp = icmp->type << 8 | icmp->code;
		p->seq = bpf_ntohs(icmp->un.echo.sequence);
		/* Query and reply share an identifier: it takes the place of both ports, as in conntrack. */
		if (v6 ? icmp->type == 128 || icmp->type == 129 :
			 icmp->type == 0 || icmp->type == 8 || icmp->type == 13 || icmp->type == 14)
			t->sport = t->dport = icmp->un.echo.id;
		/* Errors: RFC 792 types 3, 4, 5, 11, 12; RFC 4443 types below 128. */
		p->urgent = v6 ? icmp->type < 128 :
				 (icmp->type >= 3 && icmp->type <= 5) || icmp->type == 11 || icmp->type == 12;
		c->at += sizeof(*icmp);
		break;
	}
	}
	return true;
}

/* Parses what follows the IP header: extension headers, fragments, ports. */
static __always_inline bool nm_parse_payload(struct nm_cursor *c, struct nm_transport *t, struct nm_packet *p, bool v6,
					     __u64 addresses)
{
	if (!t->fragment && !nm_parse_extensions(c, t, v6, addresses))
		return false;
	if (t->fragment) {
		__u64 word = nm_fragment_get(t->datagram, p->now);

		if (word) {
			t->protocol = word >> 32;
			t->sport = word >> 16;
			t->dport = word;
			if (nm_is_icmp(t->protocol)) {
				p->icmp = t->dport;
				t->dport = t->sport;
			}
		}
	} else {
		if (!nm_parse_transport(c, t, p))
			return false;
		if (t->first_of_many)
			nm_fragment_put(t->datagram, p->now, t->protocol, t->sport,
					nm_is_icmp(t->protocol) ? p->icmp : t->dport);
		p->tunnel = nm_tunnel_of(t->protocol, t->dport);
		if (p->tunnel && t->first_of_many)
			p->tunnel |= NM_TUNNEL_CUT;
	}
	p->headers = c->at;
	p->payload = c->wire > c->at ? c->wire - c->at : 0;
	return true;
}

static __always_inline int nm_parse4(struct nm_cursor *c, struct nm_packet *p)
{
	const struct iphdr *ip = nm_header(c, sizeof(*ip));
	struct nm_transport t = {};
	__u32 length, total;
	__u16 offset;

	if (!ip || *(const __u8 *)ip >> 4 != 4)
		return NM_BROKEN;
	length = (*(const __u8 *)ip & 15) * 4;
	total = bpf_ntohs(ip->tot_len);
	/* 0: longer than the field can express (BIG TCP). */
	if (total && (c->cut || c->at + total < c->wire))
		c->wire = c->at + total;
	if (c->wire < c->end)
		c->end = c->wire;
	if (length < sizeof(*ip) || c->at + length > c->end)
		return NM_BROKEN;
	p->key4.saddr = ip->saddr;
	p->key4.daddr = ip->daddr;
	t.protocol = ip->protocol;
	offset = bpf_ntohs(ip->frag_off);
	if (offset & (NM_IP_OFFSET | NM_IP_MORE_FRAGMENTS)) {
		t.datagram = nm_datagram((__u64)ip->saddr << 32 | ip->daddr, ip->id, ip->protocol);
		t.fragment = !!(offset & NM_IP_OFFSET);
		t.first_of_many = !t.fragment;
	}
	c->at += length;
	if (!nm_parse_payload(c, &t, p, false, 0))
		return NM_BROKEN;
	p->key4.sport = t.sport;
	p->key4.dport = t.dport;
	p->key4.protocol = t.protocol;
	return NM_FLOW4;
}

/*
 * BIG TCP: a packet of more than 64 KiB that is yet to be segmented, or was merged from segments, may carry its length in a
 * Hop-by-Hop header of 8 bytes (RFC 2675), which the kernel removes before it segments the packet or passes it to a driver.
 */
static __always_inline bool nm_has_unsent_jumbo(struct nm_cursor *c, __u8 protocol)
{
	const __u8 *h;

	if (protocol != NM_HOPOPTS || !(c->skb->gso_size || c->skb->gso_segs))
		return false;
	h = nm_header(c, 8);
	return h && h[0] == IPPROTO_TCP && !h[1] && h[2] == NM_OPTION_JUMBO && h[3] == 4;
}

static __always_inline int nm_parse6(struct nm_cursor *c, struct nm_packet *p)
{
	const struct ipv6hdr *ip = nm_header(c, sizeof(*ip));
	struct nm_transport t = {};
	const __u64 *w;
	__u32 total;

	if (!ip || *(const __u8 *)ip >> 4 != 6)
		return NM_BROKEN;
	total = bpf_ntohs(ip->payload_len);
	/* 0: a jumbogram, RFC 2675, or BIG TCP. */
	if (total && (c->cut || c->at + sizeof(*ip) + total < c->wire))
		c->wire = c->at + sizeof(*ip) + total;
	if (c->wire < c->end)
		c->end = c->wire;
	__builtin_memcpy(p->key6.saddr, &ip->saddr, 16);
	__builtin_memcpy(p->key6.daddr, &ip->daddr, 16);
	w = (const __u64 *)p->key6.saddr;
	t.protocol = ip->nexthdr;
	c->at += sizeof(*ip);
	if (!total && nm_has_unsent_jumbo(c, t.protocol))
		p->unsent = 8;
	if (!nm_parse_payload(c, &t, p, true, w[0] * NM_K1 ^ w[1] ^ w[2] * NM_K4 ^ w[3] * NM_K3))
		return NM_BROKEN;
	p->key6.sport = t.sport;
	p->key6.dport = t.dport;
	p->key6.protocol = t.protocol;
	return NM_FLOW6;
}

/* Parses from `c` on: an Ethernet frame, or else a network header of type `type`. `outer` is a VLAN id already known. */
static __always_inline int nm_parse_from(struct nm_cursor *c, struct nm_packet *p, bool ethernet, __be16 type, __u16 outer,
					 __u8 hook)
{
	struct __sk_buff *skb = c->skb;
	__u16 inner = 0;

	__builtin_memset(p, 0, sizeof(*p));
	p->now = nm_now(skb);
	if (ethernet) {
		const struct ethhdr *eth = nm_header(c, sizeof(*eth));

		if (!eth)
			return NM_BROKEN;
		type = eth->h_proto;
		p->opening = nm_broadcast(eth);
		c->at += sizeof(*eth);
#pragma unroll
		for (int i = 0; i < 2; i++) {
			const struct vlan_hdr *vlan;
			__u16 vid;

			if (!nm_is_vlan(type))
				break;
			vlan = nm_header(c, sizeof(*vlan));
			if (!vlan)
				return NM_BROKEN;
			vid = bpf_ntohs(vlan->h_vlan_TCI) & NM_VLAN_VID;
			if (!outer)
				outer = vid;
			else if (!inner)
				inner = vid;
			type = vlan->h_vlan_encapsulated_proto;
			c->at += sizeof(*vlan);
		}
	}
	if (type != bpf_htons(NM_ETH_P_IP) && type != bpf_htons(NM_ETH_P_IPV6)) {
		int shims = nm_shims(skb, c->at, bpf_ntohs(type), c->end);

		if (shims < 0)
			return NM_BROKEN;
		type = bpf_htons(shims & 0xffff);
		c->at += shims >> 16;
	}
	p->headers = c->at;
	if (type == bpf_htons(NM_ETH_P_IP)) {
		p->key4.ifindex = nm_place(skb);
		p->key4.hook = hook;
		p->key4.vlan = outer;
		p->key4.inner_vlan = inner;
		return nm_parse4(c, p);
	}
	if (type == bpf_htons(NM_ETH_P_IPV6)) {
		p->key6.ifindex = nm_place(skb);
		p->key6.hook = hook;
		p->key6.vlan = outer;
		p->key6.inner_vlan = inner;
		return nm_parse6(c, p);
	}
	return NM_NO_IP;
}

/* Parses what nm_parse leaves to it. Not inlined, so that ordinary packets stay cheap. */
static __noinline int nm_parse_any(struct __sk_buff *skb, struct nm_packet *p, bool ethernet, __u8 hook)
{
	struct nm_cursor c = { .skb = skb, .end = skb->len, .wire = nm_wire(skb) };

	return nm_parse_from(&c, p, ethernet, skb->protocol, nm_offloaded_vlan(skb), hook);
}
