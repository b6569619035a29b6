// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Loading this program shows whether a program may call its global functions while preemption is disabled. Verifiers refused that
 * when bpf_preempt_disable was introduced (6.10); later ones accept it if the function does not sleep.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

__noinline int nm_callee(__u32 id)
{
	asm volatile("" : "+r"(id));
	return id;
}

SEC("tcx/ingress")
int nm_caller(struct __sk_buff *skb)
{
	int is;

	bpf_preempt_disable();
	is = nm_callee(skb->len);
	bpf_preempt_enable();
	return is;
}

char _license[] SEC("license") = "GPL";
