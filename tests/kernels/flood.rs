//! A flood, attached as this kernel supports, while CPUs go offline and come back. Each CPU has a cache of its own,
//! whose contents must not be lost.

use std::fs;
use std::path::PathBuf;

use crate::live::agent::{Watch, watching};
use crate::live::eventually;
use crate::live::metrics::Page;
use crate::live::net::quiet_pair;
use crate::live::traffic::Flood;
use crate::needs_root;
use crate::support::kernel::attach_mode;
use crate::support::not_run;

/// A CPU that is offline until this value is dropped.
struct Unplugged(PathBuf);

impl Unplugged {
    fn new(cpu: &str) -> Unplugged {
        let switch = PathBuf::from(format!("/sys/devices/system/cpu/{cpu}/online"));
        fs::write(&switch, "0").unwrap();
        Unplugged(switch)
    }
}

impl Drop for Unplugged {
    fn drop(&mut self) {
        fs::write(&self.0, "1").unwrap();
    }
}

/// The agent saw what the interface counted, attached as this kernel supports, and accounts for all of it.
fn flood(unplug: bool) {
    let (a, b) = quiet_pair();
    let watch = Watch::start(&b, "vb", watching(&["vb"]));
    let mode = format!("mode=\"{}\"", attach_mode().name());
    let page = Page::get(&b, &watch.agent, "/metrics");
    assert_eq!(page.sum("netmon_interface_info", &["interface=\"vb\"", &mode]), 1.0, "{}", page.body);

    let flood = Flood::start(&a, "10.9.0.2".parse().unwrap());
    let more = || {
        let before = flood.sent();
        eventually("more of the flood", || (flood.sent() > before + 2_000).then_some(()));
    };
    more();
    let mut gone = None;
    for _ in 0..if unplug { 2 } else { 0 } {
        gone = Some(Unplugged::new("cpu1"));
        more();
        drop(gone.take());
        more();
    }
    if unplug {
        // The last packets are in the cache of a CPU that is offline when the agent stops.
        gone = Some(Unplugged::new("cpu1"));
    }
    flood.stop();
    let watched = watch.stop();
    drop(gone);
    assert!(watched.counters.rx.packets > 2_000);
    assert_eq!(watched.books.ingress, watched.counters.rx);
    assert_eq!(watched.books.egress, watched.counters.tx);
}

#[test]
fn all_of_a_flood_is_accounted_for() {
    needs_root!();
    flood(false);
}

#[test]
#[ignore = "takes CPUs offline: for the virtual machines of scripts/test-kernels"]
fn cpus_that_go_offline_lose_no_packets() {
    needs_root!();
    if !fs::exists("/sys/devices/system/cpu/cpu1/online").unwrap() {
        not_run(crate::function_name!(), "there is only one CPU");
        return;
    }
    flood(true);
}
