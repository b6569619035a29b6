/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Headers between Ethernet and IP. */
#pragma once

#define NM_SHIMS_CUT -1

static __always_inline bool nm_is_vlan(__be16 type)
{
	return type == bpf_htons(NM_ETH_P_8021Q) || type == bpf_htons(NM_ETH_P_8021AD) ||
	       type == bpf_htons(NM_ETH_P_QINQ1);
}

/*
 * Walks the headers between Ethernet and IP other than the VLAN tags in the flow key: further tags, a stack of MPLS labels (RFC
 * 3032), a PPPoE session (RFC 2516). Returns the type of what follows, and in the upper half the length of the headers walked;
 * NM_SHIMS_CUT if the packet ends before. Under MPLS only the first bits identify IP: anything else there (RFC 4385) starts with
 * zeroes.
 */
__noinline int nm_shims(struct __sk_buff *skb, __u32 at, __u32 type, __u32 end)
{
	__u32 start = at;
	__u8 h[8];

#pragma clang loop unroll(disable)
	for (int i = 0; i < NM_SHIMS; i++) {
		if (nm_is_vlan(bpf_htons(type))) {
			if (at + 4 > end || bpf_skb_load_bytes(skb, at, h, 4))
				return NM_SHIMS_CUT;
			type = h[2] << 8 | h[3];
			at += 4;
		} else if (type == NM_ETH_P_MPLS_UC || type == NM_ETH_P_MPLS_MC) {
			if (at + 5 > end || bpf_skb_load_bytes(skb, at, h, 5))
				return NM_SHIMS_CUT;
			if (h[2] & 1)
				type = h[4] >> 4 == 4 ? NM_ETH_P_IP : h[4] >> 4 == 6 ? NM_ETH_P_IPV6 : 0;
			at += 4;
		} else if (type == NM_ETH_P_PPP_SES) {
			if (at + 8 > end || bpf_skb_load_bytes(skb, at, h, 8))
				return NM_SHIMS_CUT;
			type = h[0] == 0x11 && !h[1] ? h[6] << 8 | h[7] : 0;
			type = type == NM_PPP_IP ? NM_ETH_P_IP : type == NM_PPP_IPV6 ? NM_ETH_P_IPV6 : 0;
			at += 8;
		} else {
			break;
		}
	}
	return (at - start) << 16 | (type & 0xffff);
}
