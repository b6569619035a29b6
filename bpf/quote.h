/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * ICMP errors quote the packet they are about. The error is reported to its flow by a record without packets, under the key of
 * the quoted packet.
 */
#pragma once

#define NM_QUOTES 64 /* per tick and CPU: errors may come in floods, and each quote costs a record */

struct nm_quoted {
	__be16 sport;
	__be16 dport;
};

/* A quote includes at least the first 8 bytes of the transport header (RFC 792), and so the ports. */
static __always_inline bool nm_quoted_ports(struct __sk_buff *skb, __u32 at, __u8 protocol, struct nm_quoted *ports)
{
	struct icmphdr icmp;

	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP)
		return !bpf_skb_load_bytes(skb, at, ports, sizeof(*ports));
	ports->sport = ports->dport = 0;
	if (nm_is_icmp(protocol)) {
		if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)))
			return false;
		ports->sport = ports->dport = icmp.un.echo.id;
	}
	return true;
}

/* Offset of the quoted packet's transport header, after the headers that nm_parse_extensions walks; 0: a later fragment, or cut off. */
static __always_inline __u32 nm_quoted_transport(struct __sk_buff *skb, __u32 at, __u8 *protocol, bool v6)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < NM_EXTENSIONS; i++) {
		int ext = nm_extension(skb, at, *protocol, v6);

		if (ext == NM_EXT_NONE)
			break;
		if (ext == NM_EXT_CUT || ext & NM_EXT_LATER)
			return 0;
		*protocol = NM_EXT_NEXT(ext);
		at += NM_EXT_LENGTH(ext);
	}
	return at;
}

static __always_inline int nm_quote4(struct __sk_buff *skb, struct nm_cpu *cpu, struct nm_packet *p)
{
	struct nm_entry4 *entry = (void *)&cpu->scratch;
	struct nm_quoted ports;
	struct iphdr ip;
	__u32 at, length;

	if (bpf_skb_load_bytes(skb, p->headers, &ip, sizeof(ip)) || *(__u8 *)&ip >> 4 != 4 ||
	    ip.frag_off & bpf_htons(NM_IP_OFFSET))
		return 0;
	length = (*(__u8 *)&ip & 15) * 4;
	if (length < sizeof(ip))
		return 0;
	at = nm_quoted_transport(skb, p->headers + length, &ip.protocol, false);
	if (!at || !nm_quoted_ports(skb, at, ip.protocol, &ports))
		return 0;
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->key = p->key4;
	entry->key.saddr = ip.saddr;
	entry->key.daddr = ip.daddr;
	entry->key.sport = ports.sport;
	entry->key.dport = ports.dport;
	entry->key.protocol = ip.protocol;
	entry->delta.first = p->now;
	entry->delta.last = p->now;
	entry->delta.icmp = p->icmp;
	entry->delta.cause = NM_QUOTED;
	if (nm_is_left_out(&entry->key, sizeof(entry->key), cpu->sample))
		return 0;
	return !nm_emit(cpu, p->cpu, &entry->delta, NM_KIND_FLOW4, sizeof(entry->key));
}

static __always_inline int nm_quote6(struct __sk_buff *skb, struct nm_cpu *cpu, struct nm_packet *p)
{
	struct nm_entry6 *entry = &cpu->scratch;
	struct nm_quoted ports;
	struct ipv6hdr ip;
	__u32 at;

	if (bpf_skb_load_bytes(skb, p->headers, &ip, sizeof(ip)) || *(__u8 *)&ip >> 4 != 6)
		return 0;
	at = nm_quoted_transport(skb, p->headers + sizeof(ip), &ip.nexthdr, true);
	if (!at || !nm_quoted_ports(skb, at, ip.nexthdr, &ports))
		return 0;
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->key = p->key6;
	__builtin_memcpy(entry->key.saddr, &ip.saddr, 16);
	__builtin_memcpy(entry->key.daddr, &ip.daddr, 16);
	entry->key.sport = ports.sport;
	entry->key.dport = ports.dport;
	entry->key.protocol = ip.nexthdr;
	entry->delta.first = p->now;
	entry->delta.last = p->now;
	entry->delta.icmp = p->icmp;
	entry->delta.cause = NM_QUOTED;
	if (nm_is_left_out(&entry->key, sizeof(entry->key), cpu->sample))
		return 0;
	return !nm_emit(cpu, p->cpu, &entry->delta, NM_KIND_FLOW6, sizeof(entry->key));
}

/* Reports the ICMP error in `cpu->packet` to the flow it is about. Counts the errors for which no record can be written. */
__noinline int nm_quote(struct __sk_buff *skb, __u32 id)
{
	struct nm_cpu *cpu = bpf_map_lookup_elem(&nm_cpus, &id);
	struct nm_packet *p;

	if (!cpu)
		return 0;
	p = nm_packet_of(cpu);
	if (cpu->quotes_at != p->now) {
		cpu->quotes_at = p->now;
		cpu->quotes = 0;
	}
	if (cpu->quotes++ >= NM_QUOTES || (p->v6 ? nm_quote6(skb, cpu, p) : nm_quote4(skb, cpu, p)))
		cpu->unquoted++;
	return 0;
}
