//! Known delays as ground truth: a relay between the two hosts delays each frame. Seen from one end, the whole delay is
//! on the other's side.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netmon::flow::{Flow, Stat};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};

use super::agent::{Agent, FlowLog, watching};
use super::eventually;
use super::net::{host, index, offloads_off};
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::sh;

/// Delay of each frame, in either direction.
const HOLD: Duration = Duration::from_millis(20);
/// The server's time to answer.
const THINK: Duration = Duration::from_millis(60);
/// Other work of the machine makes times longer, never shorter, so the shortest of this many counts, and on a busy
/// machine that of several rounds.
const TRIES: u16 = 8;
const ROUNDS: usize = 10;

/// Forwards frames between two interfaces of a namespace, until this value is dropped.
struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A socket that receives all frames of an interface.
fn tap(ns: &Netns, link: &str) -> Socket {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let number = index(ns, link) as i32;
    ns.run(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(i32::from(all).into())).unwrap();
        let (yes, size) = (1i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: all zeros are a value of the type; the targets of pointers outlive the calls.
        let results = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = all;
            address.sll_ifindex = number;
            let (fd, length) = (socket.as_raw_fd(), size_of_val(&address) as libc::socklen_t);
            let ignore = libc::PACKET_IGNORE_OUTGOING;
            [
                libc::bind(fd, (&raw const address).cast(), length),
                libc::setsockopt(fd, libc::SOL_PACKET, ignore, (&raw const yes).cast(), size),
            ]
        };
        assert_eq!(results, [0, 0]);
        socket.set_nonblocking(true).unwrap();
        socket
    })
}

impl Relay {
    fn start(ns: &Netns, links: [&str; 2]) -> Relay {
        let taps = links.map(|link| tap(ns, link));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut held: [VecDeque<(Instant, Vec<u8>)>; 2] = Default::default();
            while !stopped.load(Relaxed) {
                let due = held.iter().filter_map(|queue| queue.front()).map(|(due, _)| *due).min();
                let wait = due.map_or(HOLD, |due| due.saturating_duration_since(Instant::now()));
                let mut fds = [&taps[0], &taps[1]].map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN));
                ppoll(&mut fds, Some(TimeSpec::from(wait)), None).unwrap();
                for (tap, queue) in taps.iter().zip(&mut held) {
                    let mut frame = [0; 2048];
                    while let Ok(length) = (&*tap).read(&mut frame) {
                        queue.push_back((Instant::now() + HOLD, frame[..length].to_vec()));
                    }
                }
                for (from, queue) in held.iter_mut().enumerate() {
                    while queue.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                        let (_, frame) = queue.pop_front().unwrap();
                        (&taps[1 - from]).write_all(&frame).unwrap();
                    }
                }
            }
        });
        Relay { stop, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Hosts `a` with 10.9.0.1 on `va` and `b` with .2 on `vb`, with the relay's namespace between them.
fn network() -> (Netns, Netns, Netns) {
    let (a, b, relay) = (host("a"), host("b"), host("relay"));
    for (ns, link, peer, number, other) in [(&a, "va", "ra", 1, 2), (&b, "vb", "rb", 2, 1)] {
        let mac = |n: u8| format!("02:00:00:00:09:{n:02x}");
        sh(&format!(
            "ip -n {} link add {link} address {} type veth peer name {peer} netns {}",
            ns.name,
            mac(number),
            relay.name
        ));
        relay.sh(&format!("echo 1 >/proc/sys/net/ipv6/conf/{peer}/disable_ipv6 && ip link set dev {peer} up"));
        ns.sh(&format!(
            "echo 1 >/proc/sys/net/ipv6/conf/{link}/disable_ipv6
             ip addr add 10.9.0.{number}/24 dev {link}
             ip link set dev {link} up
             ip neigh replace 10.9.0.{other} lladdr {} dev {link} nud permanent",
            mac(other)
        ));
        offloads_off(ns, link);
    }
    (a, b, relay)
}

/// Answers every request after a delay: one connection after the other, and datagrams.
fn serve(b: &Netns) {
    let (listener, socket) =
        b.run(|| (TcpListener::bind("10.9.0.2:80").unwrap(), UdpSocket::bind("10.9.0.2:53").unwrap()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut request = [0; 100];
            if stream.read_exact(&mut request).is_ok() {
                std::thread::sleep(THINK);
                stream.write_all(&request).unwrap();
                let _ = stream.read(&mut request);
            }
        }
    });
    std::thread::spawn(move || {
        let mut query = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            std::thread::sleep(THINK);
            socket.send_to(&query[..length], from).unwrap();
        }
    });
}

fn ask(a: &Netns) {
    a.run(|| {
        for _ in 0..TRIES {
            let mut stream = TcpStream::connect("10.9.0.2:80").unwrap();
            stream.write_all(&[b'q'; 100]).unwrap();
            stream.read_exact(&mut [0; 100]).unwrap();
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            socket.send_to(&[b'q'; 100], "10.9.0.2:53").unwrap();
            socket.recv_from(&mut [0; 100]).unwrap();
        }
    });
    a.sh(&format!("ping -q -i 0.2 -c {TRIES} 10.9.0.2"));
}

/// The shortest of all flows' times.
fn least(flows: &[&Flow], of: impl Fn(&Flow) -> Option<u64>) -> Duration {
    assert!(!flows.is_empty());
    Duration::from_nanos(flows.iter().filter_map(|flow| of(flow)).min().unwrap_or(u64::MAX))
}

fn shortest(stat: &Stat) -> Option<u64> {
    (stat.count > 0).then_some(stat.min_ns)
}

/// A measured time and the true one.
struct Measured {
    what: String,
    got: Duration,
    truth: Duration,
}

impl Measured {
    /// True if it is within 1 ms or 5 %.
    fn is_right(&self) -> bool {
        self.got.abs_diff(self.truth) <= Duration::from_millis(1).max(self.truth / 20)
    }

    /// True if another program's use of the CPU may explain the excess.
    fn is_late(&self) -> bool {
        self.got > self.truth
    }
}

fn measured_at(link: &str, flows: &[Flow], near: Duration, far: Duration) -> Vec<Measured> {
    let of = |protocol| flows.iter().filter(|f| f.protocol == protocol).collect::<Vec<_>>();
    let details = |f: &Flow| f.details.clone().unwrap_or_default();
    let what = |name: &str| format!("{link}: {name}");
    let (tcp, udp, icmp) = (of(6), of(17), of(1));
    for flow in &tcp {
        let d = details(flow);
        let all = [d.handshake_server_ns, d.handshake_client_ns, d.connect_ns, shortest(&d.rtt), shortest(&d.response)];
        assert!(all.iter().all(Option::is_some), "each connection has each of its times: {d:?}");
    }
    let most = |f: &Flow| (details(f).rtt.count > 1).then_some(details(f).rtt.max_ns);
    let measured = [
        ("handshake, server", least(&tcp, |f| details(f).handshake_server_ns), far),
        ("handshake, client", least(&tcp, |f| details(f).handshake_client_ns), near),
        ("connect", least(&tcp, |f| details(f).connect_ns), near + far),
        // Data went in both directions, and the ACKs of each end take their own time.
        ("round trip, least", least(&tcp, |f| shortest(&details(f).rtt)), Duration::ZERO),
        ("round trip, most", least(&tcp, most), near + far),
        ("response, TCP", least(&tcp, |f| shortest(&details(f).response)), THINK + far),
        ("response, UDP", least(&udp, |f| shortest(&details(f).response)), THINK + far),
        ("echo", least(&icmp, |f| shortest(&details(f).rtt)), far),
    ];
    measured.map(|(name, got, truth)| Measured { what: what(name), got, truth }).into()
}

#[test]
fn are_measured_on_the_correct_side() {
    needs_root!();
    let (a, b, between) = network();
    let _relay = Relay::start(&between, ["ra", "rb"]);
    serve(&b);
    for (ns, link) in [(&a, "va"), (&b, "vb")] {
        let agent = Agent::start(ns, watching(&[link]));
        let log = FlowLog::start(agent.handle.clone());
        let (near, far) = if link == "va" { (Duration::ZERO, 2 * HOLD) } else { (2 * HOLD, Duration::ZERO) };
        for round in 1..=ROUNDS {
            ask(&a);
            let flows: Vec<Flow> = eventually("all flows with their answers", || {
                agent.settled();
                let flows = log.flows();
                let answered = |f: &&Flow| f.from_server().packets > 0;
                let count = |protocol| flows.iter().filter(|f| f.protocol == protocol).filter(answered).count();
                // A client's port may be used again.
                let tries = round * usize::from(TRIES);
                (count(6) == tries && count(17) + round > tries && count(1) == round).then_some(flows)
            });
            let measured = measured_at(link, &flows, near, far);
            let wrong: Vec<&Measured> = measured.iter().filter(|one| !one.is_right()).collect();
            if round < ROUNDS && !wrong.is_empty() && wrong.iter().all(|one| one.is_late()) {
                continue;
            }
            for Measured { what, got, truth } in &measured {
                eprintln!("{what}: {got:?}, truly {truth:?}");
            }
            let wrong: Vec<String> =
                wrong.iter().map(|one| format!("{} is {:?}, and was {:?}", one.what, one.got, one.truth)).collect();
            assert!(wrong.is_empty(), "after {round} rounds: {wrong:#?}");
            break;
        }
    }
}
