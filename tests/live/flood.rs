//! Floods: memory is bounded by the flows in the table, and known connections stay.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::control::Operated;
use super::eventually;
use super::metrics::get;
use super::net::quiet_pair;
use super::traffic::{ETH, plain_tcp};
use crate::needs_root;
use crate::support::flood::SynFlood;
use crate::support::netns::Netns;

/// Hardware address of `vb`, as set in net.rs.
const MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
/// The settings of the manifests, without the CPU limit, above which flows are left out.
const SHIPPED: &str = "resources.memory_limit=384Mi";
const CONNECTIONS: usize = 50;
/// Time that a kubelet waits for the answer to a probe.
const PROBE: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

fn started(ns: &Netns, name: &str, arguments: &[&str]) -> (Operated, SocketAddr) {
    let operated = Operated::start(ns, name, arguments);
    let address = operated.program.log.iter().find_map(|line| line.split("metrics on http://").nth(1)).unwrap();
    let address = address.trim_end_matches("/metrics").parse().unwrap();
    (operated, address)
}

fn resident(operated: &Operated) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operated.program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Ends the agent, which must report that nothing is missing.
fn end_exact(operated: Operated) {
    operated.program.signal("TERM");
    let (status, _, log) = operated.program.end();
    assert!(status.success() && log.last().unwrap().contains("(exact)"), "{log:#?}");
}

#[test]
fn memory_of_a_burst_is_released() {
    needs_root!();
    let (a, b) = quiet_pair();
    let (operated, address) = started(&b, "burst", &["--set", "flow.connect_timeout=1s"]);
    let flows = || get(&b, address, "/metrics").sum("netmon_flows_active", &[]);
    // Fetch the first page now: its memory does not belong to the flows.
    flows();
    let before = resident(&operated);
    let flood = SynFlood::start(&a, "va", MAC);
    eventually("many flows", || (flows() > 200_000.0).then_some(()));
    drop(flood);
    let most = resident(&operated);
    assert!(most > before + 40 * MIB, "{most} bytes after {before}");
    eventually("their end", || (flows() < 100.0).then_some(()));
    eventually("their memory is released", || (resident(&operated) < before + (most - before) / 4).then_some(()));
    end_exact(operated);
}

/// Connections with continuous requests and answers.
struct Conversations {
    clients: Vec<TcpStream>,
    servers: Vec<TcpStream>,
}

impl Conversations {
    fn open(a: &Netns, b: &Netns) -> Conversations {
        plain_tcp(a);
        plain_tcp(b);
        let listener = b.run(|| TcpListener::bind("10.9.0.2:0").unwrap());
        let server = listener.local_addr().unwrap();
        count(b, server.port());
        let connect = |_| (a.run(|| TcpStream::connect(server).unwrap()), listener.accept().unwrap().0);
        let (clients, servers): (Vec<_>, Vec<_>) = (0..CONNECTIONS).map(connect).unzip();
        for stream in clients.iter().chain(&servers) {
            // Now and then, frames of the flood push theirs out of the queue.
            stream.set_read_timeout(Some(4 * super::PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        Conversations { clients, servers }
    }

    /// Continues until `over`.
    fn go_on(&self, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            for (client, server) in self.clients.iter().zip(&self.servers) {
                let mut buffer = [0; 300];
                let (mut client, mut server) = (client, server);
                client.write_all(&[1; 100]).unwrap();
                server.read_exact(&mut buffer[..100]).unwrap();
                server.write_all(&[2; 300]).unwrap();
                client.read_exact(&mut buffer).unwrap();
            }
            sleep(Duration::from_millis(200));
        }
    }

    /// Each connection must be one flow that agrees with nftables to the byte: what is lost because the rings are full is the
    /// flood's. (Sockets also count what the flood pushes out of a queue on the way.)
    fn check(&self, b: &Netns, operated: &Operated) -> Result<()> {
        let port = self.servers[0].local_addr().unwrap().port();
        let filter = format!("dst_port={port} and dst_ip=10.9.0.2");
        let dump = operated.says(&["-o", "json", "flows", "dump", "--filter", &filter]);
        let flows: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [requests, answers] = ["requests", "answers"].map(|set| counted(b, set));
        let mut wrong = Vec::new();
        for client in &self.clients {
            let source = client.local_addr().unwrap().port();
            let its: Vec<&Value> = flows.iter().filter(|flow| flow["client_port"] == source).collect();
            ensure!(its.len() == 1, "{} flows of one connection: {its:#?}", its.len());
            let seen = |end: &str| ["packets", "bytes"].map(|what| its[0][format!("{end}_{what}")].as_u64().unwrap());
            let seen = [seen("client"), seen("server")];
            let passed = [requests[&source], answers[&source]];
            if seen != passed {
                wrong.push((seen, passed));
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} of {CONNECTIONS} differ (packets and bytes seen, passed): {wrong:?}",
            wrong.len()
        );
        Ok(())
    }
}

/// Lets nftables count what passes `vb` of connections to `port`, by the client's port.
fn count(ns: &Netns, port: u16) {
    let set = "{ type inet_service; size 1024; flags dynamic; }";
    let hook = |hook: &str| format!("type filter hook {hook} device vb priority 0;");
    let rules = format!(
        "table netdev passed {{
            set requests {set}
            set answers {set}
            chain in {{ {} ip saddr 10.9.0.1 tcp dport {port} update @requests {{ tcp sport counter }}; }}
            chain out {{ {} tcp sport {port} update @answers {{ tcp dport counter }}; }}
        }}",
        hook("ingress"),
        hook("egress"),
    );
    ns.sh(&format!("nft \"{rules}\""));
}

/// Packets, and bytes with the link-layer header, by the client's port.
fn counted(ns: &Netns, set: &str) -> HashMap<u16, [u64; 2]> {
    let list: Value = serde_json::from_str(&ns.sh(&format!("nft -j list set netdev passed {set}"))).unwrap();
    let elements = list["nftables"].as_array().unwrap().iter().find_map(|object| object["set"]["elem"].as_array());
    let one = |element: &Value| {
        let number = |value: &Value| value.as_u64().unwrap();
        let (element, counter) = (&element["elem"], &element["elem"]["counter"]);
        let (packets, bytes) = (number(&counter["packets"]), number(&counter["bytes"]));
        // That header was taken off a packet when it passes the hook on its way in.
        let header = if set == "requests" { ETH } else { 0 };
        (number(&element["val"]) as u16, [packets, bytes + packets * header])
    };
    elements.unwrap().iter().map(one).collect()
}

/// Requests both probes until `over`; returns the longest time of an answer.
fn probe(ns: &Netns, address: SocketAddr, over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    ns.run(|| {
        while !over.load(Ordering::Relaxed) {
            for path in ["/healthz", "/readyz"] {
                let start = Instant::now();
                let mut stream = TcpStream::connect_timeout(&address, 5 * PROBE).unwrap();
                stream.set_read_timeout(Some(5 * PROBE)).unwrap();
                write!(stream, "GET {path} HTTP/1.1\r\nHost: netmon\r\nConnection: close\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{path}: {error}"));
                assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
                longest = longest.max(start.elapsed());
            }
            sleep(PROBE / 4);
        }
    });
    longest
}

/// Opens silent connections to the metrics server, as many as the agent allows, again and again.
fn be_silent(ns: &Netns, port: u16, count: usize, over: &AtomicBool) {
    ns.run(|| {
        let mut silent = Vec::new();
        while !over.load(Ordering::Relaxed) {
            silent.retain(|stream: &TcpStream| {
                stream.set_nonblocking(true).is_ok()
                    && matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            });
            let new = (silent.len()..count)
                .map_while(|_| TcpStream::connect_timeout(&SocketAddr::from(([10, 9, 0, 2], port)), PROBE).ok());
            silent.extend(new.collect::<Vec<_>>());
            sleep(PROBE / 4);
        }
    });
}

/// Reads all flows, a kilobyte at a time, again and again.
fn read_slowly(operated: &Operated, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let mut command = operated.command(&["-o", "json", "flows", "dump", "--sort", "bytes"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = child.stdout.take().unwrap();
        let mut piece = [0; 1024];
        while !over.load(Ordering::Relaxed) && lines.read(&mut piece).is_ok_and(|read| read > 0) {
            sleep(Duration::from_millis(100));
        }
        let _ = child.kill();
        child.wait().unwrap();
    }
}

/// Runs a flood for `time`, with other activity at the same time.
fn withstand(
    name: &str,
    time: Duration,
    metrics: &str,
    meanwhile: impl for<'s> FnOnce(&'s Scope<'s, '_>, &'s Operated, &'s Netns, SocketAddr, &'s AtomicBool),
) {
    let (a, b) = quiet_pair();
    let (operated, address) = started(&b, name, &["--set", SHIPPED, "--metrics-addr", metrics]);
    let conversations = Conversations::open(&a, &b);
    let over = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let mut samples = Vec::new();
    let slowest = std::thread::scope(|scope| {
        // A failure of one thread ends all: otherwise the others would go on for ever.
        let over = &over;
        let _end = End(over);
        let talking = scope.spawn(|| conversations.go_on(over));
        let probing = scope.spawn(|| probe(&b, address, over));
        meanwhile(scope, &operated, &a, address, over);
        let flood = SynFlood::start(&a, "va", MAC);
        let start = Instant::now();
        while start.elapsed() < time && !talking.is_finished() && !probing.is_finished() {
            samples.push((start.elapsed().as_secs(), resident(&operated)));
            if samples.len() % 30 == 1 {
                let (at, bytes) = samples[samples.len() - 1];
                println!("{at:4} s: {:4} MiB resident, {} M SYNs", bytes / MIB, flood.sent() / 1_000_000);
            }
            sleep(Duration::from_secs(1));
        }
        sent.store(flood.sent(), Ordering::Relaxed);
        drop(flood);
        over.store(true, Ordering::Relaxed);
        talking.join().unwrap();
        probing.join().unwrap()
    });
    let status = operated.json(&["status"]);
    let settled: Vec<u64> =
        samples.iter().filter(|(at, _)| *at >= time.as_secs() / 5).map(|(_, bytes)| *bytes).collect();
    let (least, most) = (settled.iter().min().unwrap(), settled.iter().max().unwrap());
    println!(
        "{} M SYNs; {} to {} MiB resident from the second minute on; slowest probe {slowest:?}; {} flows, {} evicted",
        sent.load(Ordering::Relaxed) / 1_000_000,
        least / MIB,
        most / MIB,
        status["flows_active"],
        status["flows_evicted"]
    );
    assert!(most - least < least / 10 + 16 * MIB, "{samples:?}");
    assert!(slowest < PROBE, "{slowest:?}");
    // Their last packets are reported within some seconds.
    let since = Instant::now();
    while let Err(error) = conversations.check(&b, &operated) {
        assert!(since.elapsed() < super::PATIENCE, "{error:#}");
        sleep(Duration::from_millis(200));
    }
    println!("{CONNECTIONS} connections kept, to the byte");
    let active = get(&b, address, "/metrics").sum("netmon_flows_active", &[]);
    assert!(active > 100_000.0, "what fits stays: {active} flows");
    end_exact(operated);
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `NETMON_FLOOD_SECONDS`, else five minutes. The steady state is checked after the first fifth, when the table is
/// full.
fn minutes() -> Duration {
    let seconds = std::env::var("NETMON_FLOOD_SECONDS").ok().map(|text| text.parse().unwrap());
    let seconds = seconds.unwrap_or(300);
    assert!(seconds >= 60, "NETMON_FLOOD_SECONDS={seconds}: from 60 on the table is full in time");
    Duration::from_secs(seconds)
}

#[test]
#[ignore = "takes five minutes and a machine of its own: make test-flood"]
fn memory_stays_flat_for_minutes() {
    needs_root!();
    withstand("flat", minutes(), "127.0.0.1:0", |_, _, _, _, _| {});
}

#[test]
#[ignore = "takes five minutes and a machine of its own: make test-flood"]
fn clients_are_answered_for_minutes() {
    needs_root!();
    withstand("waiting", minutes(), "10.9.0.2:0", |scope, operated, a, address, over| {
        for _ in 0..8 {
            scope.spawn(move || read_slowly(operated, over));
        }
        scope.spawn(move || be_silent(a, address.port(), 200, over));
    });
}
