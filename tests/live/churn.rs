//! Interfaces that come and go in large numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netmon::bpf::{ChainPlace, list_hooked, list_links};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::binary::Program;
use super::net::host;
use super::{PATIENCE, eventually};
use crate::support::netns::Netns;
use crate::support::{repeat, seed};
use crate::{needs_root, needs_tcx};

const BURST: usize = 1000;
/// Number of attempts of each side to give an interface to the other.
const MOVES: usize = 3000;

/// The real program in a namespace; its links and memory are read from /proc.
struct Watcher<'a> {
    program: Program,
    ns: &'a Netns,
    metrics: String,
}

impl<'a> Watcher<'a> {
    fn start(ns: &'a Netns, clsact: bool) -> Watcher<'a> {
        let mut program = Program::start(ns, &[], clsact);
        let line = program.wait_for("metrics on http://").to_owned();
        let metrics = line.rsplit("http://").next().unwrap().trim_end_matches("/metrics").to_owned();
        program.wait_for("ready");
        Watcher { program, ns, metrics }
    }

    /// TCX links by interface. The kernel reports interface 0 if the interface is gone.
    fn links(&self) -> BTreeMap<u32, usize> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.program.pid())).unwrap() {
            // It may have been closed in the meantime.
            let Ok(text) = fs::read_to_string(entry.unwrap().path()) else { continue };
            if text.contains("link_type:\ttcx") {
                let index = text.lines().find_map(|line| line.strip_prefix("ifindex:")).unwrap();
                *found.entry(index.trim().parse().unwrap()).or_default() += 1;
            }
        }
        found
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.program.pid())).unwrap().count()
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.program.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until each interface has both programs, and nothing else has any.
    fn await_all_attached(&self) {
        let start = Instant::now();
        while !self.is_all_attached() {
            assert!(start.elapsed() < 5 * PATIENCE, "attached: {:?}", self.attached());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn is_all_attached(&self) -> bool {
        let attached = self.attached();
        attached.keys().copied().collect::<BTreeSet<_>>() == self.there() && attached.values().all(|n| *n == 2)
    }

    /// Interfaces that should be watched.
    fn there(&self) -> BTreeSet<u32> {
        let there = self.ns.run(|| list_links().unwrap());
        there.into_iter().filter(|link| !link.loopback).map(|link| link.index).collect()
    }

    /// Programs by interface, of which each should have 2: TCX links, or else filters.
    fn attached(&self) -> BTreeMap<u32, usize> {
        let mut attached = self.links();
        for index in self.there().into_iter().filter(|index| !attached.contains_key(index)).collect::<Vec<_>>() {
            // It may have gone in the meantime.
            let hooked = self.ns.run(|| list_hooked(index).unwrap_or_default());
            let ours = hooked.iter().filter(|program| program.ours && matches!(program.place, ChainPlace::Clsact(_)));
            attached.insert(index, ours.count());
        }
        attached
    }

    fn scrape(&self) -> String {
        self.ns.run(|| {
            let mut stream = TcpStream::connect(&self.metrics).unwrap();
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: netmon\r\nConnection: close\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        })
    }

    fn end(self) {
        self.program.signal("TERM");
        let (status, _, log) = self.program.end();
        assert!(status.success(), "{log:#?}");
        assert!(log.last().unwrap().contains("(exact)"), "{log:#?}");
        assert!(!log.iter().any(|line| line.contains("cannot watch")), "{log:#?}");
    }
}

/// Runs many commands with `ip -batch`, without stopping at failures.
fn batch(ns: &Netns, commands: &str) {
    let mut child = Command::new("ip")
        .args(["-n", &ns.name, "-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_thousand_pairs_come_and_go() {
    needs_tcx!();
    let (ns, pods) = (host("burst"), host("pods"));
    let watcher = Watcher::start(&ns, false);
    let make: String =
        (0..BURST).map(|i| format!("link add a{i} group 7 type veth peer name b{i} netns {}\n", pods.name)).collect();
    batch(&ns, &make);
    watcher.await_all_attached();
    assert_eq!(watcher.attached().len(), BURST);
    batch(&ns, "link del group 7\n");
    watcher.await_all_attached();
    let (descriptors, resident) = (watcher.descriptors(), watcher.resident_kib());
    // In quick succession: most are gone before netmon can attach to them.
    batch(&ns, &format!("{make}link del group 7\n"));
    batch(&ns, "link add last type veth peer name other\n");
    watcher.await_all_attached();
    assert_eq!(watcher.links().len(), 2);
    // Others are open only while the kernel is asked something.
    eventually("no descriptor leaks", || (watcher.descriptors() <= descriptors + 4).then_some(()));
    let grown = watcher.resident_kib().saturating_sub(resident);
    assert!(grown < 8 << 10, "{grown} KiB more after as many again");
    watcher.end();
}

/// A pod's link that appears, changes and disappears.
struct Churn<'a> {
    node: &'a Netns,
    pods: [Netns; 2],
    rng: SmallRng,
    names: Vec<String>,
    made: usize,
}

impl Churn<'_> {
    fn step(&mut self) {
        let node = &self.node.name;
        let pod = &self.pods[self.rng.random_range(0..2)].name;
        let some = self.names.choose(&mut self.rng).cloned();
        match (self.rng.random_range(0..10), some) {
            (0..=3, _) | (_, None) => {
                let i = self.made;
                self.made += 1;
                let subnet = i % 200;
                batch(
                    self.node,
                    &format!(
                        "link add p{i} type veth peer name e{i} netns {pod}
                         addr add 10.200.{subnet}.1/24 dev p{i}
                         link set p{i} up\n"
                    ),
                );
                crate::support::sh(&format!(
                    "ip -n {pod} addr add 10.200.{subnet}.2/24 dev e{i} 2>/dev/null; ip -n {pod} link set e{i} up || true"
                ));
                self.names.push(format!("p{i}"));
            }
            (4..=5, Some(name)) => {
                batch(self.node, &format!("link del {name}\n"));
                self.names.retain(|other| *other != name);
            }
            (6, Some(name)) => {
                let new = format!("r{}", self.made);
                self.made += 1;
                batch(self.node, &format!("link set {name} down\nlink set {name} name {new}\nlink set {new} up\n"));
                self.names.retain(|other| *other != name);
                self.names.push(new);
            }
            (7, Some(name)) => batch(self.node, &format!("link set {name} down\nlink set {name} up\n")),
            // It moves away and comes back later or never; in the latter case its pod end vanishes, too.
            (8, Some(name)) => {
                batch(self.node, &format!("link set {name} netns {pod}\n"));
                self.names.retain(|other| *other != name);
            }
            (_, Some(_)) => {
                let away = crate::support::sh(&format!("ip -n {pod} -o link | grep -oE ' [pr][0-9]+@' | head -1"));
                let away = away.trim().trim_end_matches('@').to_owned();
                if !away.is_empty() {
                    crate::support::sh(&format!("ip -n {pod} link set {away} netns {node} || true"));
                    self.names.push(away);
                }
            }
        }
    }
}

/// Waits until the interface has both filters.
fn await_filters(ns: &Netns, name: &str) {
    eventually(&format!("both filters on {name}"), || {
        let shown = ns.sh(&format!("tc filter show dev {name} ingress; tc filter show dev {name} egress"));
        (shown.matches("handle 0x6e6d").count() == 2).then_some(())
    });
}

fn random_changes_under_traffic(clsact: bool) {
    let node = host("node");
    let watcher = Watcher::start(&node, clsact);
    let pods = [host("p0"), host("p1")];
    let length = repeat(Duration::from_secs(15), Duration::from_secs(60));
    let mut churn = Churn { node: &node, pods, rng: SmallRng::seed_from_u64(seed()), names: Vec::new(), made: 0 };
    let socket = node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Send to pods that exist or not, at a rate that leaves processor time for the changes.
        scope.spawn(|| {
            for subnet in (0..200).cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                sent.fetch_add(
                    u64::from(socket.send_to(&[0; 32], (format!("10.200.{subnet}.2"), 9)).is_ok()),
                    Ordering::Relaxed,
                );
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert!(watcher.scrape().contains("netmon_interface_info"));
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let start = Instant::now();
        let (mut early, mut steps) = ((0, 0), 0);
        let enough = |steps| steps > repeat(25, 100) && sent.load(Ordering::Relaxed) > repeat(250, 1000);
        while start.elapsed() < length || !enough(steps) {
            assert!(start.elapsed() < length + 5 * PATIENCE, "{steps} steps, {sent:?} datagrams");
            churn.step();
            steps += 1;
            // The memory that many interfaces take is allocated once.
            if early.0 == 0 && start.elapsed() > length / 3 {
                early = (watcher.descriptors() - watcher.links().values().sum::<usize>(), watcher.resident_kib());
            }
            // From here on, keep the number of interfaces about the same.
            while churn.names.len() > 100 {
                let name = churn.names.swap_remove(0);
                batch(&node, &format!("link del {name}\n"));
            }
        }
        stop.store(true, Ordering::Relaxed);
        if !clsact {
            watcher.await_all_attached();
            let descriptors = watcher.descriptors() - watcher.links().values().sum::<usize>();
            assert!(descriptors <= early.0 + 8, "{descriptors} descriptors besides the links, from {}", early.0);
        }
        let grown = watcher.resident_kib().saturating_sub(early.1);
        assert!(grown < 16 << 10, "{grown} KiB more in {steps} steps");
    });
    if clsact {
        // The qdisc stays by design: only the filters matter.
        for name in &churn.names {
            // Interfaces whose pod end vanished are gone.
            if !node.sh(&format!("ls /sys/class/net | grep -x {name} || true")).is_empty() {
                await_filters(&node, name);
            }
        }
    }
    watcher.end();
}

/// An interface that comes back at once is watched in the end, and its absence in between is no failure.
fn an_interface_goes_back_and_forth(clsact: bool) {
    let (node, pod) = (host("node"), host("pod"));
    let watcher = Watcher::start(&node, clsact);
    node.sh(&format!("ip link add p0 type veth peer name e0 netns {}", pod.name));
    let go = |from: &Netns, to: &Netns| batch(from, &format!("link set p0 netns {}\n", to.name).repeat(MOVES));
    std::thread::scope(|scope| {
        scope.spawn(|| go(&node, &pod));
        scope.spawn(|| go(&pod, &node));
    });
    batch(&pod, &format!("link set p0 netns {}\n", node.name));
    if clsact {
        await_filters(&node, "p0");
    } else {
        watcher.await_all_attached();
    }
    watcher.end();
}

#[test]
fn random_changes_under_traffic_by_tcx() {
    needs_tcx!();
    random_changes_under_traffic(false);
}

#[test]
fn random_changes_under_traffic_by_clsact() {
    needs_root!();
    random_changes_under_traffic(true);
}

#[test]
fn an_interface_that_goes_back_and_forth_is_watched_by_tcx() {
    needs_tcx!();
    an_interface_goes_back_and_forth(false);
}

#[test]
fn an_interface_that_goes_back_and_forth_is_watched_by_clsact() {
    needs_root!();
    an_interface_goes_back_and_forth(true);
}
