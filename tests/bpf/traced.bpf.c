// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* A program at a tracepoint whose arguments have types (tp_btf): whether a kernel takes one is told by loading it. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("tp_btf/kfree_skb")
int traced(__u64 *ctx)
{
	(void)ctx;
	return 0;
}

char _license[] SEC("license") = "GPL";
