/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* A packet as the parsers leave it, and the numbers of its headers. */
#pragma once

#define NM_ETH_P_IP 0x0800
#define NM_ETH_P_IPV6 0x86dd
#define NM_ETH_P_8021Q 0x8100
#define NM_ETH_P_8021AD 0x88a8
#define NM_ETH_P_QINQ1 0x9100 /* what QinQ used before 802.1ad */
#define NM_VLAN_VID 0x0fff

#define NM_IP_OFFSET 0x1fff
#define NM_IP_MORE_FRAGMENTS 0x2000
#define NM_IP6_OFFSET 0xfff8
#define NM_IP6_MORE_FRAGMENTS 0x0001
#define NM_EXTENSIONS 8 /* extension headers walked; a longer chain is a flow without ports */

#define NM_HOPOPTS 0
#define NM_ROUTING 43
#define NM_FRAGMENT 44
#define NM_AH 51
#define NM_ICMPV6 58
#define NM_DSTOPTS 60

#define NM_TCP_FIN 0x01
#define NM_TCP_SYN 0x02
#define NM_TCP_RST 0x04
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
	};
	__u64 packets; /* segments on the wire */
	__u64 bytes;   /* of all of them, headers included */
	__u64 now;     /* jiffies64 */
	__u32 headers; /* bytes that every segment repeats */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 opening; /* NM_SYN, NM_SYN_ACK or 0 */
	__u8 urgent;  /* RST or ICMP error */
};

static __always_inline void nm_packet_tcp(struct nm_packet *p, __u8 flags)
{
	p->tcp_flags = flags;
	p->opening = !(flags & NM_TCP_SYN) ? 0 : flags & NM_TCP_ACK ? NM_SYN_ACK : NM_SYN;
	p->urgent = !!(flags & NM_TCP_RST);
}

/* The id of a VLAN tag that the driver took out of the packet, or will put in; 0: none. */
static __always_inline __u16 nm_offloaded_vlan(struct __sk_buff *skb)
{
	return skb->vlan_present ? skb->vlan_tci & NM_VLAN_VID : 0;
}
