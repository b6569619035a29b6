/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* A packet as the parsers leave it, and the constants of its headers. */
#pragma once

#define NM_ETH_P_IP 0x0800
#define NM_ETH_P_IPV6 0x86dd
#define NM_ETH_P_8021Q 0x8100
#define NM_ETH_P_8021AD 0x88a8
#define NM_ETH_P_QINQ1 0x9100 /* used for QinQ before 802.1ad */
#define NM_ETH_P_MPLS_UC 0x8847
#define NM_ETH_P_MPLS_MC 0x8848
#define NM_ETH_P_PPP_SES 0x8864
#define NM_PPP_IP 0x0021
#define NM_PPP_IPV6 0x0057
#define NM_VLAN_VID 0x0fff

#define NM_IP_OFFSET 0x1fff
#define NM_IP_MORE_FRAGMENTS 0x2000
#define NM_IP6_OFFSET 0xfff8
#define NM_IP6_MORE_FRAGMENTS 0x0001

#define NM_HOPOPTS 0
#define NM_ROUTING 43
#define NM_FRAGMENT 44
#define NM_AH 51
#define NM_ICMPV6 58
#define NM_DSTOPTS 60

#define NM_IPIP 4
#define NM_IPV6_IN_IP 41
#define NM_GRE 47

#define NM_TCP_FIN 0x01
#define NM_TCP_SYN 0x02
#define NM_TCP_RST 0x04
#define NM_TCP_PSH 0x08
#define NM_TCP_ACK 0x10

enum nm_verdict {
	NM_FLOW4,
	NM_FLOW6,
	NM_NO_IP,
	NM_BROKEN,
};

struct nm_packet {
	union {
		struct nm_key4 key4;
		struct nm_key6 key6;
		__u64 word[6]; /* either key as words */
	};
	__u64 now;     /* ticks */
	__u64 ns;      /* the precise time, once read */
	__u64 hardware; /* the NIC's timestamp if nm_clock is hardware; 0: none */
	__u32 packets; /* segments on the wire */
	__u32 headers; /* offset of the payload; each segment repeats what precedes it */
	__u64 bytes;   /* of all segments, headers included */
	__u32 payload; /* bytes */
	__u32 seq;     /* TCP, or of an ICMP echo message */
	__u32 ack;
	__u16 window;
	__u16 icmp;    /* type and code (lower byte) */
	__u8 tcp_flags;
	__u8 opening;  /* bits to add to the entry's `state`: NM_SYN or NM_SYN_ACK; NM_BROADCAST if not TCP; or 0 */
	__u8 urgent;   /* RST or ICMP error */
	__u8 side;     /* which side of its connection sent it, see struct nm_pair */
	__u8 v6;
	__u8 tunnel;   /* enum nm_app; the parsers set what it may be, with NM_TUNNEL_CUT */
	__u8 unsent;   /* bytes of `headers` that are not sent on the wire */
	__u8 turns;    /* may be a turn in an HTTP/2 conversation: its frames decide */
	__u32 cpu;
	__u32 slot;    /* number of its entry: set and way in one */
	__u64 tag;     /* tag of its connection */
};

_Static_assert(sizeof(struct nm_packet) == sizeof(((struct nm_cpu *)0)->packet), "room for a packet");

static __always_inline struct nm_packet *nm_packet_of(struct nm_cpu *cpu)
{
	return (struct nm_packet *)cpu->packet;
}

/* The packet found inside the current packet. */
static __always_inline struct nm_packet *nm_inner_of(struct nm_cpu *cpu)
{
	return (struct nm_packet *)cpu->inner;
}

static __always_inline void nm_packet_tcp(struct nm_packet *p, const struct tcphdr *tcp)
{
	__u8 flags = ((const __u8 *)tcp)[13];

	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack_seq);
	p->window = bpf_ntohs(tcp->window);
	p->tcp_flags = flags;
	p->opening = !(flags & NM_TCP_SYN) ? 0 : flags & NM_TCP_ACK ? NM_SYN_ACK : NM_SYN;
	p->urgent = !!(flags & NM_TCP_RST);
}

/*
 * The last two words of either key, each written as a whole: the hash and comparisons read the key in words, and if it were
 * written field by field the processor would stall on every word.
 */
static __always_inline __u64 nm_key_ports(__u32 ports, __u32 ifindex)
{
	return ports | (__u64)ifindex << 32;
}

static __always_inline __u64 nm_key_rest(__u8 protocol, __u8 hook, __u16 vlan)
{
	return protocol | (__u32)hook << 8 | (__u32)vlan << 16;
}

#define NM_TUNNEL_CUT 0x80 /* the tunnel packet is a first fragment */

static __always_inline __u8 nm_tunnel_of_port(__be16 dport)
{
	__u16 port = bpf_ntohs(dport);

	if (!nm_decapsulate)
		return 0;
	if (port == nm_geneve_port)
		return NM_APP_GENEVE;
#pragma unroll
	for (int i = 0; i < NM_VXLAN_PORTS; i++)
		if (port == nm_vxlan_ports[i])
			return NM_APP_VXLAN;
	return 0;
}

/* The broadcast address, all ones (IEEE 802), is the only group address that starts with 0xff. */
static __always_inline __u8 nm_broadcast(const struct ethhdr *eth)
{
	return eth->h_dest[0] == 0xff ? NM_BROADCAST : 0;
}

/* The tunnel a packet may belong to, judging by its protocol and port, as enum nm_app; 0: none. */
static __always_inline __u8 nm_tunnel_of(__u8 protocol, __be16 dport)
{
	if (!nm_decapsulate)
		return 0;
	switch (protocol) {
	case IPPROTO_UDP:
		return nm_tunnel_of_port(dport);
	case NM_GRE:
		return NM_APP_GRE;
	case NM_IPIP:
		return NM_APP_IPIP;
	case NM_IPV6_IN_IP:
		return NM_APP_SIT;
	}
	return 0;
}

/* Number of segments on the wire. Packets from guests have gso_segs 0: theirs follows from length and gso_size. */
static __always_inline __u32 nm_segments(struct __sk_buff *skb, __u32 headers)
{
	__u32 segments = skb->gso_segs, size = skb->gso_size;

	if (segments)
		return segments;
	if (!size || skb->len <= headers)
		return 1;
	return (skb->len - headers + size - 1) / size;
}

/* The interface the packet is seen at. A replayed packet carries the number of the capture's interface in its second cb word. */
static __always_inline __u32 nm_place(struct __sk_buff *skb)
{
	__u32 place = nm_clock == NM_CLOCK_CAPTURE ? skb->cb[1] : 0;

	return place ? place : skb->ifindex;
}

/* The id of a VLAN tag that the driver has stripped from the packet or will insert; 0: none. */
static __always_inline __u16 nm_offloaded_vlan(struct __sk_buff *skb)
{
	return skb->vlan_present ? skb->vlan_tci & NM_VLAN_VID : 0;
}
