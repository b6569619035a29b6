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

/* What a glance has ruled out was recognised: no protocol has this number. */
#define DETECT_OVERLOOKED 0xfe

SEC("tcx/ingress")
int detect(struct __sk_buff *skb)
{
	__u32 id = bpf_get_smp_processor_id();
	struct nm_l7 *w = nm_l7_of(id);
	bool ruled_out;
	int verdict;

	if (!w || bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &w->p, sizeof(w->p)))
		return -1;
	w->p.at = sizeof(struct ethhdr) + sizeof(w->p);
	if (w->p.protocol == IPPROTO_UDP)
		ruled_out = !nm_glance_datagram(skb, id);
	else
		ruled_out = w->p.offset == NM_MIDSTREAM && !nm_glance(skb, id);
	verdict = nm_detect(skb, id);
	return verdict && ruled_out ? DETECT_OVERLOOKED : verdict;
}

static const struct nm_payload *detect_payload __attribute__((used));
static const enum nm_number *detect_number __attribute__((used));

char _license[] SEC("license") = "GPL";
