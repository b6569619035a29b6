// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Somebody else's filter: counts the packets that come by it and lets the chain go on. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u64 foreign_seen[2] = {};

SEC("tcx/ingress")
int foreign_ingress(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&foreign_seen[0], 1);
	return -1; /* TC_ACT_UNSPEC and TCX_NEXT */
}

SEC("tcx/egress")
int foreign_egress(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&foreign_seen[1], 1);
	return -1;
}

char _license[] SEC("license") = "GPL";
