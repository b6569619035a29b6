// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* A program at a tracepoint with typed arguments (tp_btf): loading it shows whether the kernel supports them. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("tp_btf/kfree_skb")
int traced(__u64 *ctx)
{
	(void)ctx;
	return 0;
}

char _license[] SEC("license") = "GPL";
