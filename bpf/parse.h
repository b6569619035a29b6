/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Derives the flow key of the packets that are by far the most frequent: TCP or UDP directly after an IP header without options,
 * not fragmented, headers in the linear part. Everything else, and whatever looks wrong, is left to nm_parse_any.
 */
#pragma once

static __always_inline int nm_parse(struct __sk_buff *skb, bool ethernet, __u8 hook, struct nm_packet *p)
{
	const __u32 l3 = ethernet ? sizeof(struct ethhdr) : 0;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__be16 type = ethernet ? 0 : skb->protocol;
	const struct tcphdr *tcp; /* UDP has its ports in the same place */
	__u32 headers, total, wire;
	__u8 protocol;
	int verdict;

	/* The length for IPv4 and TCP; IPv6 is checked below. Shorter UDP packets take the slow path. */
	if (data + l3 + sizeof(struct iphdr) + sizeof(*tcp) > end)
		return nm_parse_any(skb, p, ethernet, hook);
	if (ethernet)
		type = ((const struct ethhdr *)data)->h_proto;
	if (type == bpf_htons(NM_ETH_P_IP)) {
		const struct iphdr *ip = data + l3;

		tcp = data + l3 + sizeof(*ip);
		if (*(const __u8 *)ip != 0x45 || ip->frag_off & bpf_htons(NM_IP_OFFSET | NM_IP_MORE_FRAGMENTS))
			return nm_parse_any(skb, p, ethernet, hook);
		protocol = ip->protocol;
		total = bpf_ntohs(ip->tot_len) + l3;
		headers = l3 + sizeof(*ip);
		p->word[0] = *(const __u64 *)&ip->saddr;
		p->word[1] = nm_key_ports(*(const __u32 *)tcp, nm_place(skb));
		p->word[2] = nm_key_rest(protocol, hook, nm_offloaded_vlan(skb));
		verdict = NM_FLOW4;
	} else if (type == bpf_htons(NM_ETH_P_IPV6)) {
		const struct ipv6hdr *ip = data + l3;

		tcp = data + l3 + sizeof(*ip);
		if ((void *)(tcp + 1) > end || *(const __u8 *)ip >> 4 != 6)
			return nm_parse_any(skb, p, ethernet, hook);
		protocol = ip->nexthdr;
		total = bpf_ntohs(ip->payload_len) + l3 + sizeof(*ip);
		headers = l3 + sizeof(*ip);
		p->word[0] = ((const __u64 *)&ip->saddr)[0];
		p->word[1] = ((const __u64 *)&ip->saddr)[1];
		p->word[2] = ((const __u64 *)&ip->saddr)[2];
		p->word[3] = ((const __u64 *)&ip->saddr)[3];
		p->word[4] = nm_key_ports(*(const __u32 *)tcp, nm_place(skb));
		p->word[5] = nm_key_rest(protocol, hook, nm_offloaded_vlan(skb));
		verdict = NM_FLOW6;
	} else {
		return nm_parse_any(skb, p, ethernet, hook);
	}
	if (protocol == IPPROTO_TCP) {
		__u32 length = (((const __u8 *)tcp)[12] >> 4) * 4;

		if (length < sizeof(*tcp))
			goto odd;
		nm_packet_tcp(p, tcp);
		p->tunnel = 0;
		p->unsent = 0;
		headers += length;
	} else if (protocol == IPPROTO_UDP) {
		p->tcp_flags = 0;
		p->opening = ethernet ? nm_broadcast(data) : 0;
		p->urgent = 0;
		p->tunnel = nm_tunnel_of_port(tcp->dest);
		p->unsent = 0;
		headers += sizeof(struct udphdr);
	} else {
		goto odd;
	}
	if (headers > total || headers > skb->len)
		goto odd;
	wire = nm_wire(skb);
	p->now = nm_now(skb);
	p->ns = 0;
	p->headers = headers;
	p->payload = (total < wire ? total : wire) - headers;
	p->icmp = 0;
	return verdict;
odd:
	return nm_parse_any(skb, p, ethernet, hook);
}
