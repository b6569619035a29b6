//! The kernel side: loads and attaches the BPF programs and provides what they saw as plain Rust values. libbpf and `unsafe` are
//! confined to this module.

mod app;
mod attach;
mod books;
mod cache_sweep;
mod chain;
mod claim;
mod clock;
mod conntrack;
mod constants;
mod event;
mod facing;
mod facts;
mod heap;
mod hooked;
mod hooks;
mod inject;
mod leftovers;
mod links;
mod load;
mod mapped;
mod mapped_ring;
mod monitor;
mod namespaces;
mod netlink;
pub mod numbers;
mod objects;
mod preempt;
mod preflight;
mod programs;
mod record;
mod ring;
mod route;
mod sampling;
mod spread;
mod stats;
mod tcx;
mod timens;
mod trace;
mod traced;
mod trial;
mod verifier;

#[allow(
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    missing_docs
)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/netmon.skel.rs"));
}

pub use app::App;
pub use attach::{Attachments, Disturbed};
pub use books::{Books, InterfaceBooks, Misses, RecordCounts, Tally};
pub use cache_sweep::{Sweep, Sweeper};
pub use claim::{HostClaim, claim_host};
pub use clock::Clock;
pub use conntrack::{Conntrack, ConntrackQueue, Tracking, Translated, list_translated};
pub use facts::{Facts, Measure, Moment, Sample};
pub use heap::give_back_memory;
pub use hooked::{ChainPlace, Hooked, list_hooked};
pub use hooks::{Mode, PRIORITY as CLSACT_PRIORITY};
pub use inject::{Frame, Injector};
pub use leftovers::remove_leftovers;
pub use libbpf_rs::OpenObject as ObjectStorage;
pub use links::{Framing, Link, counters_of, interface_counters, list_links};
pub use load::{Bpf, LOG_TARGET, ProgramOptions, TimestampSource, possible_cpus, set_log_sink};
pub use monitor::{LinkMonitor, Wait};
pub use namespaces::{Namespace, list_namespaces};
pub use objects::{MapInfo, ProgramInfo};
pub use preflight::{allow_many_descriptors, check_host, check_proc, is_preempt_rt, raise_capabilities};
pub use programs::{Loader, Programs};
pub use record::{Cause, Endpoint, Hook, Record, Sequence};
pub use ring::{Ring, RingReader, Wakeup};
pub use sampling::Sampler;
pub use spread::Spread;
pub use stats::ProgramTiming;
pub use trace::{Asks, MOST_TESTS, Next, PacketTest, PacketWord, Trace, TraceCounts, TraceReader};
pub use traced::{Fate, PacketView, TracedPacket};
pub use trial::{Trial, has_kfunc, try_ring};
pub use verifier::{MOST_INSTRUCTIONS, Verified};
