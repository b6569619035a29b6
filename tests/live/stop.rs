//! The end of a run: it is fast, and every packet is accounted for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netmon::config::Config;

use super::agent::{Agent, Watch, watching};
use super::binary::Program;
use super::control::Folder;
use super::hooks::ours;
use super::net::quiet_pair;
use super::traffic::Flood;
use super::{PATIENCE, eventually};
use crate::needs_root;

const V4: &str = "10.9.0.2";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Stops while packets still arrive.
#[test]
fn under_load() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let agent = Agent::start(&b, Config { clsact, ..watching(&["vb"]) });
        let floods = [V4, "fd09::2"].map(|to| Flood::start(&a, address(to)));
        eventually("many packets", || floods.iter().all(|f| f.sent() > 30_000).then_some(()));
        let (report, took) = agent.stop();
        let sum = report.conservation();
        assert!(took < PATIENCE, "{took:?}");
        assert!(sum.holds() && sum.seen.packets >= 60_000, "{sum}");
        let sent: u64 = floods.into_iter().map(Flood::stop).sum();
        assert!(sum.seen.packets < 2 * sent, "{sum}");
    }
}

/// The load ends, and the agent a moment later: caches and rings are full, and none of their contents is lost.
#[test]
fn with_everything_still_in_the_kernel() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let watch = Watch::start(&b, "vb", Config { clsact, ..watching(&["vb"]) });
        let flood = Flood::start(&a, address(V4));
        eventually("many packets", || (flood.sent() > 60_000).then_some(()));
        flood.stop();
        let watched = watch.stop();
        assert_eq!(watched.books.ingress, watched.counters.rx);
        assert_eq!(watched.books.egress, watched.counters.tx);
        assert!(watched.books.ingress.packets >= 50_000);
    }
}

/// The program itself is stopped by both signals.
#[test]
fn by_signal() {
    needs_root!();
    let (a, b) = quiet_pair();
    let flood = Flood::start(&a, address(V4));
    for (signal, clsact) in [("TERM", false), ("INT", false), ("TERM", true), ("INT", true)] {
        let mut program = Program::start(&b, &["--interface", "v*"], clsact);
        program.wait_for("ready");
        let mode = if clsact { "clsact" } else { "tcx" };
        assert!(program.log.iter().any(|l| l.contains("watching vb") && l.contains(mode)), "{:#?}", program.log);
        let sent = flood.sent();
        eventually("packets while it watches", || (flood.sent() > sent + 10_000).then_some(()));
        program.signal(signal);
        let (status, took, log) = program.end();
        assert_eq!(status.code(), Some(0), "SIG{signal}: {log:#?}");
        assert!(took < PATIENCE, "SIG{signal}: {took:?}");
        assert!(log.iter().any(|l| l.contains("(exact)")), "{log:#?}");
    }
    flood.stop();
}

/// Requests `/healthz` repeatedly until the status is not 200; returns that answer, or `None` if the agent ends before, or nothing is
/// wrong with it for too long.
fn sick(mut connection: BufReader<TcpStream>) -> Option<String> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        connection.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nHost: netmon\r\n\r\n").ok()?;
        let (mut answer, mut length) = (String::new(), 0);
        while !answer.ends_with("\r\n\r\n") {
            let line = answer.len();
            connection.read_line(&mut answer).ok().filter(|count| *count > 0)?;
            if let Some(text) = answer[line..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).ok()?;
        if !answer.starts_with("HTTP/1.1 200 ") {
            return Some(answer + std::str::from_utf8(&body).unwrap());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// A thread dies: `/healthz` names it, packets are accounted for, nothing stays attached, and the reason is the program's last message.
#[test]
fn by_a_thread_that_dies() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let mut program = Program::start(&b, &["--interface", "vb"], clsact);
        let metrics = program.wait_for("metrics on http://").split("http://").nth(1).unwrap().to_owned();
        let metrics = metrics.strip_suffix("/metrics").unwrap().to_owned();
        program.wait_for("ready");
        // Connect now, because later there is no descriptor left for a connection.
        let health = BufReader::new(b.run(|| TcpStream::connect(metrics).unwrap()));
        health.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let flood = Flood::start(&a, address(V4));
        eventually("many packets", || (flood.sent() > 10_000).then_some(()));
        flood.stop();
        // No descriptor is left for the request that a new address causes, which finds out where interfaces lead.
        // Other threads may have one for a moment: what was free at any time counts.
        let free = || {
            let descriptors = std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap();
            let taken: Vec<u64> =
                descriptors.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
            (0..).find(|number| !taken.contains(number)).unwrap()
        };
        let free = (0..100).map(|_| free()).min().unwrap();
        crate::support::sh(&format!("prlimit --pid {} --nofile={free}:{free}", program.pid()));
        let asking = std::thread::spawn(|| sick(health));
        b.sh("ip addr add 10.99.0.1/24 dev vb");
        let sick =
            asking.join().unwrap().expect("an answer of /healthz between the thread's death and the agent's end");
        assert!(sick.starts_with("HTTP/1.1 503 ") && sick.contains("the thread nm-links has ended: "), "{sick}");
        let (status, took, log) = program.end();
        assert_eq!(status.code(), Some(1), "{log:#?}");
        assert!(took < PATIENCE, "{took:?}");
        assert!(log.iter().any(|line| line.contains("(exact)")), "{log:#?}");
        let last = log.last().unwrap();
        assert!(last.contains("the thread nm-links has ended: ") && last.contains("Too many open files"), "{last}");
        assert!(ours(&b, "vb").is_empty(), "{:?}", ours(&b, "vb"));
    }
}

/// A client that waits for flows does not delay the end, and its thread does not outlive the agent.
#[test]
fn with_a_client_that_waits() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let folder = Folder(std::env::temp_dir().join(format!("netmon-stop-{}", std::process::id())));
    std::fs::create_dir(&folder.0).unwrap();
    let socket = folder.0.join("sock");
    let agent = Agent::start(&b, Config { socket: Some(socket.clone()), ..watching(&["vb"]) });
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"GET /v1/flows/watch HTTP/1.1\r\nHost: netmon\r\n\r\n").unwrap();
    // Threads of this process, in which no other agent has a socket: the one that accepts, and the client's.
    let serving = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.trim() == "nm-control").count()
    };
    eventually("the client is served", || (serving() == 2).then_some(()));
    let (_, took) = agent.stop();
    assert!(took < PATIENCE, "{took:?}");
    assert_eq!(serving(), 0);
}
