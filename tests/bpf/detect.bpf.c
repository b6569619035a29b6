// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The detector of application protocols by itself. A packet is an Ethernet header, a struct nm_payload, and the payload; the
 * program returns the verdict.
 */
#include "vmlinux.h"
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "../../bpf/types.h"
#include "../../bpf/config.h"
#include "../../bpf/hash.h"

#define nm_barrier() asm volatile("" ::: "memory")
#include "../../bpf/l7.h"

SEC("tcx/ingress")
int detect(struct __sk_buff *skb)
{
	__u32 id = bpf_get_smp_processor_id();
	struct nm_l7 *w = nm_l7_of(id);

	if (!w || bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &w->p, sizeof(w->p)))
		return -1;
	w->p.at = sizeof(struct ethhdr) + sizeof(w->p);
	return nm_detect(skb, id);
}

static const struct nm_payload *detect_payload __attribute__((used));
static const enum nm_number *detect_number __attribute__((used));

char _license[] SEC("license") = "GPL";
