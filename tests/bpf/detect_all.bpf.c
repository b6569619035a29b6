// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* The same as detect.bpf.c, but no detector is left out because the first bytes rule its protocol out. */
#define NM_POSSIBLE(w, bits) true
#define NM_POSSIBLE_PREFIX(w) true
#include "detect.bpf.c"
