//! PREEMPT_RT: softirqs are threads there, and may preempt each other.
//!
//! A lock (`softirq_ctrl` in the kernel's kernel/softirq.c) keeps those of one CPU apart, which the plain counters of the packet
//! path rely on; from Linux 6.18 on a kernel may be built without it. If the verifier allows it, the packet path disables
//! preemption itself. When `bpf_preempt_disable` was introduced, it did not: calling global functions was forbidden while
//! preemption was disabled.

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

/// Whether the packet path is to disable preemption: it needs to, and the verifier allows it.
pub(super) fn is_forbidden() -> bool {
    is_preempt_rt() && {
        let mut storage = MaybeUninit::uninit();
        skel::PreemptSkelBuilder::default().open(&mut storage).is_ok_and(|open| open.load().is_ok())
    }
}
