//! seen + decapsulated = accounted + duplicate + ignored + lost, with caches and rings that are much too small.

use std::net::IpAddr;

use netmon::config::Config;

use super::agent::{Watch, watching};
use super::eventually;
use super::net::quiet_pair;
use super::traffic::Flood;
use crate::needs_root;

fn overload(config: Config, is_lossy: bool) {
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let watch = Watch::start(&b, "vb", Config { clsact, ..config.clone() });
        for to in ["10.9.0.2", "fd09::2"] {
            let flood = Flood::start(&a, to.parse::<IpAddr>().unwrap());
            // Send in steps: an emulated machine takes longer for everything than any wait of the tests.
            for sent in (10_000..=100_000).step_by(10_000) {
                eventually("more of a flood of flows", || (flood.sent() > sent).then_some(()));
            }
            flood.stop();
        }
        let watched = watch.stop();
        assert_eq!(watched.books.ingress, watched.counters.rx);
        assert_eq!(watched.books.egress, watched.counters.tx);
        let sum = watched.report.conservation();
        assert!(sum.seen.packets > 150_000, "{sum}");
        assert_eq!(sum.lost.packets > 0, is_lossy, "{sum}");
        assert_eq!(watched.report.records.lost > 0, is_lossy);
    }
}

#[test]
fn ring_too_small() {
    needs_root!();
    // The reader is not woken before the ring is full.
    overload(Config { workers: 1, buffer_size: 1, batch_size: 100_000, ..watching(&["vb"]) }, true);
}

#[test]
fn cache_too_small() {
    needs_root!();
    overload(Config { flow_map_size: Some(256), buffer_size: 1 << 20, ..watching(&["vb"]) }, false);
}

#[test]
fn both_too_small() {
    needs_root!();
    let small =
        Config { workers: 1, buffer_size: 1, batch_size: 100_000, flow_map_size: Some(256), ..watching(&["vb"]) };
    overload(small, true);
}
