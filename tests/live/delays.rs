//! Compares measured times with the truth: a client, a router that netmon watches and a server, connected by tun devices
//! whose packets a relay delays. The relay notes when it handed each packet to the router, which passes the hook before
//! the call returns. So the test knows every time to within that call, however busy the machine is.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etherparse::{SlicedPacket, TcpSlice, TransportSlice};
use netmon::config::{Config, Features, Precision};
use netmon::flow::{Details, Flow};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::agent::{Agent, watching};
use super::framing::open_tun;
use super::metrics::Page;
use super::net::host;
use super::traffic::flow_of;
use super::{PATIENCE, eventually};
use crate::needs_root;
use crate::support::netns::Netns;

/// One-way delays between router and client, and between router and server.
const CLIENT_SIDE: Duration = Duration::from_millis(15);
const SERVER_SIDE: Duration = Duration::from_millis(40);
/// The server's time for an answer.
const THOUGHT: Duration = Duration::from_millis(60);

const TURNS: usize = 4;
const CONNECTIONS: usize = 7;

/// A packet that a relay wrote, and when it began and had ended to do so.
struct Written {
    bytes: Vec<u8>,
    began: Instant,
    ended: Instant,
}

impl Written {
    /// Between the two is the time from `earlier` to this packet, in nanoseconds.
    fn since(&self, earlier: &Written) -> [u64; 2] {
        let ns = |from: Instant, to: Instant| to.duration_since(from).as_nanos() as u64;
        [ns(earlier.ended, self.began), ns(earlier.began, self.ended)]
    }

    fn tcp(&self) -> Option<TcpSlice<'_>> {
        match SlicedPacket::from_ip(&self.bytes).unwrap().transport {
            Some(TransportSlice::Tcp(tcp)) => Some(tcp),
            _ => None,
        }
    }
}

/// Carries packets from one tun device to another, with a constant delay at least, and returns what it carried.
struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    written: Arc<Mutex<Vec<Written>>>,
}

impl Relay {
    fn start(from: &File, to: &File, delay: Duration) -> Relay {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<Written>>>::default());
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let thread = std::thread::spawn({
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            move || carry(from, to, delay, &stop, &written)
        });
        Relay { stop, thread: Some(thread), written }
    }
}

fn carry(mut from: File, mut to: File, delay: Duration, stop: &AtomicBool, written: &Mutex<Vec<Written>>) {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let nap = match waiting.front() {
            Some((due, _)) if *due <= began => {
                let (_, bytes) = waiting.pop_front().unwrap();
                to.write_all(&bytes).unwrap();
                written.lock().unwrap().push(Written { bytes, began, ended: Instant::now() });
                continue;
            }
            Some((due, _)) => *due - began,
            None => Duration::from_millis(100),
        };
        if ppoll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], Some(TimeSpec::from(nap)), None).unwrap() > 0 {
            let due = Instant::now() + delay;
            let mut packet = vec![0; 2000];
            let length = from.read(&mut packet).unwrap();
            packet.truncate(length);
            waiting.push_back((due, packet));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A client, a router and a server.
struct Net {
    client: Netns,
    router: Netns,
    server: Netns,
    from_client: Relay,
    from_server: Relay,
    _to_ends: [Relay; 2],
}

fn net() -> Net {
    let [client, router, server] = ["client", "router", "server"].map(host);
    let [c, rc, rs, s] = [(&client, "t0"), (&router, "tc"), (&router, "ts"), (&server, "t0")]
        .map(|(ns, name)| open_tun(ns, name, libc::IFF_TUN));
    for (ns, link, net, host) in
        [(&client, "t0", 1, 1), (&router, "tc", 1, 2), (&router, "ts", 2, 2), (&server, "t0", 2, 1)]
    {
        ns.sh(&format!(
            "ip addr add 10.{net}.0.{host}/24 dev {link}
             ip addr add fd0{net}::{host}/64 dev {link} nodad
             ip link set dev {link} up"
        ));
    }
    for ns in [&client, &server] {
        ns.sh("ip route add default dev t0 && ip -6 route add default dev t0");
    }
    router.sh("echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    Net {
        client,
        router,
        server,
        from_client: Relay::start(&c, &rc, CLIENT_SIDE),
        from_server: Relay::start(&s, &rs, SERVER_SIDE),
        _to_ends: [Relay::start(&rc, &c, CLIENT_SIDE), Relay::start(&rs, &s, SERVER_SIDE)],
    }
}

/// Sends some requests over a connection.
fn talk(listener: &TcpListener, stream: &TcpStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut served, _) = listener.accept().unwrap();
            served.set_nodelay(true).unwrap();
            for _ in 0..TURNS {
                served.read_exact(&mut [0; 100]).unwrap();
                std::thread::sleep(THOUGHT);
                served.write_all(&[7; 100]).unwrap();
            }
            assert_eq!(served.read(&mut [0]).unwrap(), 0);
        });
        let mut stream = stream;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..TURNS {
            stream.write_all(&[8; 100]).unwrap();
            stream.read_exact(&mut [0; 100]).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    });
}

/// What the router got of a connection, in order: from the client and from the server.
struct Journal<'a>([Vec<(TcpSlice<'a>, &'a Written)>; 2]);

impl<'a> Journal<'a> {
    fn of(written: [&'a [Written]; 2], client: u16, server: u16) -> Journal<'a> {
        let of = |written: &'a [Written], from, to| {
            let ours = |tcp: &TcpSlice<'_>| (tcp.source_port(), tcp.destination_port()) == (from, to);
            written.iter().filter_map(|w| Some((w.tcp().filter(ours)?, w))).collect()
        };
        Journal([of(written[0], client, server), of(written[1], server, client)])
    }

    /// The times from SYN to SYN-ACK and from there to the ACK, unless they were retransmitted, and from SYN to ACK.
    fn handshake(&self) -> ([Option<[u64; 2]>; 2], [u64; 2]) {
        let [syns, syn_acks] = [0, 1].map(|end| -> Vec<&Written> {
            self.0[end].iter().filter(|(tcp, _)| tcp.syn()).map(|(_, written)| *written).collect()
        });
        let (_, ack) = self.0[0].iter().find(|(tcp, _)| !tcp.syn()).unwrap();
        let sides = [(&syns, syn_acks[0]), (&syn_acks, *ack)];
        (sides.map(|(sent, answer)| (sent.len() == 1).then(|| answer.since(sent[0]))), ack.since(syns[0]))
    }

    /// Every time from data of an end to the first ACK that covers it.
    fn round_trips(&self, sender: usize) -> impl Iterator<Item = [u64; 2]> {
        let data = self.0[sender].iter().filter(|(tcp, _)| !tcp.payload().is_empty());
        data.filter_map(move |(tcp, sent)| {
            let end = tcp.sequence_number().wrapping_add(tcp.payload().len() as u32);
            let covers = |ack: &TcpSlice<'_>| ack.ack() && ack.acknowledgment_number().wrapping_sub(end) < 1 << 31;
            let (_, ack) = self.0[1 - sender].iter().find(|(tcp, w)| w.began > sent.ended && covers(tcp))?;
            Some(ack.since(sent))
        })
    }

    /// The times from each request to its answer. A request may have been sent more than once.
    fn responses(&self) -> impl Iterator<Item = [u64; 2]> {
        let answers = self.0[1].iter().filter(|(tcp, _)| !tcp.payload().is_empty());
        answers.filter_map(|(answer, answered)| {
            let asks = |tcp: &TcpSlice<'_>| {
                let end = tcp.sequence_number().wrapping_add(tcp.payload().len() as u32);
                !tcp.payload().is_empty() && end == answer.acknowledgment_number()
            };
            let asked: Vec<_> = self.0[0].iter().filter(|(tcp, w)| w.began < answered.ended && asks(tcp)).collect();
            let [first, last] = [asked.first()?.1, asked.last()?.1];
            Some([answered.since(last)[0], answered.since(first)[1]])
        })
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The time is between the bounds of one of these.
fn any(times: &[[u64; 2]], ns: u64) -> bool {
    times.iter().any(|[from, to]| (from..=to).contains(&&ns))
}

/// Asserts that times agree with the journal. True if the shortest round trip is one to the client, the longest one to the
/// server.
fn compare(details: &Details, journal: &Journal<'_>) -> bool {
    let is_in = |name: &str, ns: u64, truth: &[[u64; 2]]| assert!(any(truth, ns), "{name} {ns} ns, not in {truth:?}");
    let (sides, connect) = journal.handshake();
    for (measured, truth) in [details.handshake_server_ns, details.handshake_client_ns].into_iter().zip(sides) {
        if let Some(truth) = truth {
            is_in("a part of the handshake", measured.unwrap(), &[truth]);
        }
    }
    is_in("connecting", details.connect_ns.unwrap(), &[connect]);
    let [near, far] = [1, 0].map(|sender| journal.round_trips(sender).collect::<Vec<_>>());
    let both = [near.clone(), far.clone()].concat();
    let (shortest, longest) = (details.rtt.min_ns, details.rtt.max_ns);
    is_in("the shortest round trip", shortest, &both);
    is_in("the longest round trip", longest, &both);
    let responses: Vec<_> = journal.responses().collect();
    assert!(responses.len() >= TURNS, "{} responses", responses.len());
    let response = [0, 1].map(|bound| responses.iter().map(|time| time[bound]).min().unwrap());
    is_in("the shortest response", details.response.min_ns, &[response]);
    any(&near, shortest) && any(&far, longest)
}

/// Asserts that a histogram has `count` times, whose sum is `sum` milliseconds.
fn agrees(page: &Page, name: &str, label: &str, count: usize, sum: f64) {
    let part = |part: &str| page.sum(&format!("netmon_{name}_seconds_{part}"), &[label]);
    assert_eq!(part("count") as usize, count, "{name} {label}");
    let [measured, mean] = [part("sum") * 1e3, sum].map(|sum| sum / count as f64);
    assert!((measured - mean).abs() < 0.01, "{name} {label}: {measured} ms on average, not {mean}");
}

#[test]
fn are_measured_correctly() {
    needs_root!();
    let net = net();
    let config =
        Config { features: Features { latency: Some(Precision::High), ..Features::default() }, ..watching(&["tc"]) };
    let agent = Agent::start(&net.router, config);
    let mut seen: HashMap<u16, Flow> = HashMap::new();
    let mut ends = Vec::new();
    // Closed flows leave the table some seconds after their end, which is longer than a connection takes.
    let look = |seen: &mut HashMap<u16, Flow>| {
        let port = |flow: &Flow| flow.endpoint(usize::from(flow.client)).port;
        seen.extend(agent.handle.flows().into_iter().map(|flow| (port(&flow), flow)));
    };
    for address in ["10.2.0.1", "fd02::1"] {
        // Use ports below those of clients, so that the guess of the server is right even if its records come first.
        for port in (7000..).take(CONNECTIONS) {
            let listener = net.server.run(|| TcpListener::bind((address, port)).unwrap());
            let server = listener.local_addr().unwrap();
            let stream = net.client.run(|| TcpStream::connect(server).unwrap());
            talk(&listener, &stream);
            ends.push((stream.local_addr().unwrap(), server));
            look(&mut seen);
        }
    }
    eventually("the end of all connections", || {
        look(&mut seen);
        let over = |(c, _): &(SocketAddr, _)| seen.get(&c.port()).is_some_and(|f| f.outcome.is_some());
        ends.iter().all(over).then_some(())
    });
    agent.settled();
    look(&mut seen);
    let flows: Vec<Flow> = seen.into_values().collect();
    let seen: Vec<Details> =
        ends.iter().map(|&(c, s)| Details::clone(flow_of(&flows, 6, c, s).details.as_ref().unwrap())).collect();
    let written = [&net.from_client, &net.from_server].map(|relay| std::mem::take(&mut *relay.written.lock().unwrap()));
    let as_told: Vec<bool> = (seen.iter().zip(&ends))
        .map(|(details, (c, s))| compare(details, &Journal::of([&written[0], &written[1]], c.port(), s.port())))
        .collect();
    // A busy machine may delay the packets of some connections so that the server seems nearer, but not of all.
    assert!(as_told.contains(&true), "the server is farther away than the client");

    // The metrics page agrees: times of all connections, by pair. Times that had no room in a record are counted.
    let page = Page::get(&net.router, &agent, "/metrics");
    let responses: usize = seen.iter().map(|d| d.response.count as usize).sum();
    let missed = page.sum("netmon_latency_samples_missed_total", &["reason=\"busy\""]) as usize;
    assert!(responses + missed >= 2 * CONNECTIONS * TURNS, "{responses} responses, {missed} missed");
    let (v4, v6) = seen.split_at(CONNECTIONS);
    let connects = |of: &[Details]| -> Vec<u64> { of.iter().map(|details| details.connect_ns.unwrap()).collect() };
    let handshakes = |get: fn(&Details) -> Option<u64>| seen.iter().filter_map(get).collect::<Vec<_>>();
    for (name, label, all) in [
        ("latency", "10.1.0.1", connects(v4)),
        ("latency", "fd01::1", connects(v6)),
        ("handshake", "side=\"client\"", handshakes(|details| details.handshake_client_ns)),
        ("handshake", "side=\"server\"", handshakes(|details| details.handshake_server_ns)),
    ] {
        agrees(&page, name, label, all.len(), ms(all.iter().sum::<u64>()));
    }
    let sum = seen.iter().map(|d| d.response.mean_ns() * f64::from(d.response.count) / 1e6).sum();
    agrees(&page, "response", "dst_workload", responses, sum);
    agent.stop();
}
