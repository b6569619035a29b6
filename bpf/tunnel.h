/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Tunnels: the packet inside is accounted as well, with NM_INNER in the hook of its key. Only one level is opened: a tunnel in a
 * tunnel is an ordinary flow of the outer one. A port proves nothing: a packet without a valid tunnel header is not a tunnel
 * packet.
 */
#pragma once

/* RFC 7348, with the group policy extension: `I` is set, reserved bits are not. */
static __always_inline bool nm_vxlan_header(struct nm_cursor *c)
{
	const __be32 *w = nm_header(c, 8);
	__u32 flags;

	if (!w || w[1] & bpf_htonl(0xff))
		return false;
	flags = bpf_ntohl(w[0]);
	if ((flags & 0x7f000000) != 0x08000000 || flags & (flags >> 31 ? 0x00b70000 : 0x00ffffff))
		return false;
	c->at += 8;
	return true;
}

#define NM_ETH_P_TEB 0x6558

/* Whether the tunnel header is followed by a frame or an IP packet; nothing else is parsed. */
static __always_inline bool nm_inner_type(__be16 type, bool *ethernet)
{
	*ethernet = type == bpf_htons(NM_ETH_P_TEB);
	return *ethernet || type == bpf_htons(NM_ETH_P_IP) || type == bpf_htons(NM_ETH_P_IPV6);
}

/* RFC 8926, version 0; control packets belong to the tunnel itself. */
static __always_inline bool nm_geneve_header(struct nm_cursor *c, __be16 *type, bool *ethernet)
{
	const __u8 *h = nm_header(c, 8);

	if (!h || h[0] >> 6 || h[1] & 0xbf || h[7])
		return false;
	*type = *(const __be16 *)(h + 2);
	c->at += 8 + (h[0] & 0x3f) * 4;
	return c->at <= c->end && nm_inner_type(*type, ethernet);
}

/* RFC 2784 and 2890: checksum, key and sequence number are optional; no routing, version 0. */
static __always_inline bool nm_gre_header(struct nm_cursor *c, __be16 *type, bool *ethernet)
{
	const __be16 *h = nm_header(c, 4);
	__u16 flags;

	if (!h)
		return false;
	flags = bpf_ntohs(h[0]);
	if (flags & 0x4fff)
		return false;
	*type = h[1];
	c->at += 4 + (flags >> 15) * 4 + (flags >> 13 & 1) * 4 + (flags >> 12 & 1) * 4;
	return c->at <= c->end && nm_inner_type(*type, ethernet);
}

static __always_inline bool nm_ip_version(struct nm_cursor *c, __u8 version)
{
	const __u8 *ip = nm_header(c, 1);

	return ip && *ip >> 4 == version;
}

#define NM_OPENED_TUNNEL(opened) ((opened) & 0xff)
#define NM_OPENED_VERDICT(opened) ((opened) >> 8 & 0xf)
#define NM_OPENED_HEADERS(opened) ((opened) >> 12)

/*
 * Parses the packet inside into `cpu->inner`, and counts it. The payload of the outer packet starts at `at` and on the wire ended
 * at `wire`; the low 8 bits of `how` are the possible tunnel, the bits above the hook. Returns in one number the tunnel, the verdict
 * on the inner packet, and the bytes of headers that each segment repeats; 0: no tunnel.
 */
__noinline int nm_tunnel_open(struct __sk_buff *skb, __u32 id, __u32 at, __u32 wire, __u32 how)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_cursor c = { .skb = skb, .at = at, .end = skb->len, .wire = wire };
	__u32 tunnel = how & 0x7f, headers, start;
	bool ethernet = false, valid = false;
	struct nm_books *books = nm_books_of(id, skb->ifindex);
	struct nm_packet *p;
	__be16 type = 0;
	int verdict;

	if (!cpu || !books)
		return 0;
	if (wire < c.end)
		c.end = wire;
	switch (tunnel) {
	case NM_APP_VXLAN:
		ethernet = true;
		valid = nm_vxlan_header(&c);
		break;
	case NM_APP_GENEVE:
		valid = nm_geneve_header(&c, &type, &ethernet);
		break;
	case NM_APP_GRE:
		valid = nm_gre_header(&c, &type, &ethernet);
		break;
	case NM_APP_IPIP:
		type = bpf_htons(NM_ETH_P_IP);
		valid = nm_ip_version(&c, 4);
		break;
	case NM_APP_SIT:
		type = bpf_htons(NM_ETH_P_IPV6);
		valid = nm_ip_version(&c, 6);
		break;
	}
	if (!valid)
		return 0;
	start = c.at;
	c.cut = how & NM_TUNNEL_CUT;
	p = nm_inner_of(cpu);
	verdict = nm_parse_from(&c, p, ethernet, type, 0, how >> 8 | NM_INNER);
	p->cpu = id;
	p->tunnel = 0;
	if (verdict != NM_FLOW4 && verdict != NM_FLOW6) {
		p->headers = start;
		c.wire = wire;
	}
	/* Merged datagrams (UDP GRO): each has a tunnel header of its own and a packet of the same flow. */
	if (skb->gso_size && c.wire < wire && c.wire - at == skb->gso_size) {
		headers = at;
		p->packets = nm_segments(skb, headers);
		p->bytes = wire - at - (__u64)p->packets * (start - at);
	} else {
		headers = p->headers;
		p->packets = nm_segments(skb, headers);
		p->bytes = c.wire - start + (__u64)(p->packets - 1) * (headers - start);
	}
	nm_count(&books->inner, p->packets, p->bytes);
	if (verdict != NM_FLOW4 && verdict != NM_FLOW6)
		nm_ignore(books, verdict, p);
	return headers << 12 | verdict << 8 | tunnel;
}

/* Accounts the packet in `cpu->inner`; the caller finishes it. One function per family: for both it would need more stack. */
__noinline int nm_account_inner4(struct __sk_buff *skb, __u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);

	return cpu ? nm_account4(skb, cpu, nm_inner_of(cpu)) : NM_BECOMES(NM_FATE_PAST_LOST, 0);
}

__noinline int nm_account_inner6(struct __sk_buff *skb, __u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);

	return cpu ? nm_account6(skb, cpu, nm_inner_of(cpu)) : NM_BECOMES(NM_FATE_PAST_LOST, 0);
}

/* Old verifiers allow 512 bytes for all functions on the stack together, hence the separate calls. */
static __always_inline int nm_account_inner(struct __sk_buff *skb, struct nm_cpu *cpu, __u32 id, __u32 verdict)
{
	int became = nm_ignored_as(verdict);

	if (verdict == NM_FLOW4) {
		became = nm_account_inner4(skb, id);
		nm_finish(skb, cpu, nm_inner_of(cpu), became);
	} else if (verdict == NM_FLOW6) {
		became = nm_account_inner6(skb, id);
		nm_finish(skb, cpu, nm_inner_of(cpu), became);
	}
	return became;
}
