/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#pragma once
#define NM_MIDSTREAM (~0u)
struct nm_payload {
	__u64 flow;
	__u32 at;
	__u32 length;
	__u32 offset;
	__u16 sport, dport;
	__u8 protocol;
	__u8 side;
	__u8 client;
};
static __noinline int nm_detect(struct __sk_buff *skb, const struct nm_payload *p)
{
	return skb->len > 0 && p->length ? NM_APP_UNKNOWN : 0;
}
