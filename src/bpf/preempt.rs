//! PREEMPT_RT: softirqs are threads there, and may preempt each other.
//!
//! Those of one CPU take turns by a lock (`softirq_ctrl` in the kernel's kernel/softirq.c), which is what the packet path's plain
//! counters need; from Linux 6.18 on a kernel may be built without it. Where the verifier lets us, the packet path forbids
//! preemption itself. When `bpf_preempt_disable` came, it did not: global functions must not be called then.

use std::mem::MaybeUninit;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use super::preflight::is_preempt_rt;

#[allow(
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    missing_docs
)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/preempt.skel.rs"));
}

/// Whether the packet path is to forbid preemption: it needs to, and it can.
pub(super) fn is_forbidden() -> bool {
    is_preempt_rt() && {
        let mut storage = MaybeUninit::uninit();
        skel::PreemptSkelBuilder::default().open(&mut storage).is_ok_and(|open| open.load().is_ok())
    }
}
