// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Foreign programs: they count the packets that pass, and treat them as configured. */
#include "vmlinux.h"
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#define NEXT -1 /* TC_ACT_UNSPEC and TCX_NEXT */

const volatile int foreign_verdict = NEXT;
/* Interface to which incoming packets are redirected; 0 for none. With `foreign_peer`, into the namespace of its other end. */
const volatile __u32 foreign_to = 0;
const volatile bool foreign_peer = false;

__u64 foreign_seen[2] = {};

SEC("tcx/ingress")
int foreign_ingress(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&foreign_seen[0], 1);
	if (foreign_to)
		return foreign_peer ? bpf_redirect_peer(foreign_to, 0) : bpf_redirect(foreign_to, 0);
	return foreign_verdict;
}

SEC("tcx/egress")
int foreign_egress(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&foreign_seen[1], 1);
	return foreign_verdict;
}

char _license[] SEC("license") = "GPL";
