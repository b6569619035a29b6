//! Compares measured times with delays that the test makes: a client, a router that netmon watches and a server,
//! connected by tun devices whose packets a relay delays.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netmon::config::{Config, Features, Precision};
use netmon::flow::{Details, Flow};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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

/// Carries packets between two tun devices with a constant delay.
struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    fn start(one: &File, other: &File, delay: Duration) -> Relay {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [(one, other), (other, one)].map(|(from, to)| {
            let (from, to, stop) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&stop));
            std::thread::spawn(move || {
                before_all_others();
                carry(from, to, delay, &stop);
            })
        });
        Relay { stop, threads: threads.into() }
    }
}

/// Raises the thread's priority: other tests keep the processors busy, and a delay must not get longer because of that.
fn before_all_others() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: it concerns the calling thread, and the parameters outlive the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) };
    assert_eq!(result, 0, "real-time priority: {}", std::io::Error::last_os_error());
}

fn carry(mut from: File, mut to: File, delay: Duration, stop: &AtomicBool) {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let nap = match waiting.front() {
            Some((due, packet)) if *due <= now => {
                to.write_all(packet).unwrap();
                waiting.pop_front();
                continue;
            }
            Some((due, _)) => *due - now,
            None => Duration::from_millis(100),
        };
        // poll has a resolution of milliseconds, so the last one is a busy wait.
        let nap = PollTimeout::from(nap.as_millis().saturating_sub(1) as u8);
        if poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], nap).unwrap() > 0 {
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
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A client, a router and a server.
struct Net {
    client: Netns,
    router: Netns,
    server: Netns,
    _relays: [Relay; 2],
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
    let relays = [Relay::start(&c, &rc, CLIENT_SIDE), Relay::start(&rs, &s, SERVER_SIDE)];
    Net { client, router, server, _relays: relays }
}

/// Sends some requests over a connection; returns the server's time for each answer.
fn talk(listener: &TcpListener, stream: &TcpStream) -> Vec<Duration> {
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let (mut served, _) = listener.accept().unwrap();
            served.set_nodelay(true).unwrap();
            let answer = |_| {
                served.read_exact(&mut [0; 100]).unwrap();
                let asked = Instant::now();
                std::thread::sleep(THOUGHT);
                let took = asked.elapsed();
                served.write_all(&[7; 100]).unwrap();
                took
            };
            let thoughts = (0..TURNS).map(answer).collect();
            assert_eq!(served.read(&mut [0]).unwrap(), 0);
            thoughts
        });
        let mut stream = stream;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..TURNS {
            stream.write_all(&[8; 100]).unwrap();
            stream.read_exact(&mut [0; 100]).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        serving.join().unwrap()
    })
}

/// Asserts a time to within 5 % or 1 ms, whichever is more. It uses the median, so that a thread that was woken late
/// does not matter.
fn assert_near(name: &str, mut measured: Vec<f64>, ms: f64) {
    measured.sort_by(f64::total_cmp);
    let median = measured[measured.len() / 2];
    assert!((median - ms).abs() <= (ms * 0.05).max(1.0), "{name} takes {ms} ms, not {median}: {measured:?}");
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[test]
fn are_measured_correctly() {
    needs_root!();
    let net = net();
    let config =
        Config { features: Features { latency: Some(Precision::High), ..Features::default() }, ..watching(&["tc"]) };
    let agent = Agent::start(&net.router, config);
    let mut seen: HashMap<u16, Flow> = HashMap::new();
    let (mut ends, mut thoughts) = (Vec::new(), Vec::new());
    // Closed flows leave the table some seconds after their end, which is longer than a connection takes.
    let look = |seen: &mut HashMap<u16, Flow>| {
        let port = |flow: &Flow| flow.key.ends[usize::from(flow.client)].port;
        seen.extend(agent.handle.flows().into_iter().map(|flow| (port(&flow), flow)));
    };
    for address in ["10.2.0.1", "fd02::1"] {
        // Use ports below those of clients, so that the guess of the server is right even if its records come first.
        for port in (7000..).take(CONNECTIONS) {
            let listener = net.server.run(|| TcpListener::bind((address, port)).unwrap());
            let server = listener.local_addr().unwrap();
            let stream = net.client.run(|| TcpStream::connect(server).unwrap());
            thoughts.extend(talk(&listener, &stream));
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
    let each = |get: fn(&Details) -> u64| seen.iter().map(|details| ms(get(details))).collect::<Vec<f64>>();
    let [near, far] = [CLIENT_SIDE, SERVER_SIDE].map(|way| way.as_secs_f64() * 2e3);
    assert_near("the client's part of the handshake", each(|d| d.handshake_client_ns.unwrap()), near);
    assert_near("the server's part of the handshake", each(|d| d.handshake_server_ns.unwrap()), far);
    assert_near("connecting", each(|d| d.connect_ns.unwrap()), near + far);
    assert_near("a round trip to the client", each(|d| d.rtt.min_ns), near);
    assert_near("a round trip to the server", each(|d| d.rtt.max_ns), far);
    let thought = thoughts.iter().map(Duration::as_secs_f64).sum::<f64>() * 1e3 / thoughts.len() as f64;
    assert_near("a response", each(|d| d.response.min_ns), far + thought);

    // The metrics page agrees: times of all connections, by pair. Times that had no room in a record are counted.
    let page = Page::get(&net.router, &agent, "/metrics");
    let responses: usize = seen.iter().map(|d| d.response.count as usize).sum();
    let missed = page.sum("netmon_latency_samples_missed_total", &["reason=\"busy\""]) as usize;
    assert!(responses + missed >= 2 * CONNECTIONS * TURNS, "{responses} responses, {missed} missed");
    let mean = |name: &str, label: &str| {
        let [sum, count] = ["sum", "count"].map(|part| page.sum(&format!("netmon_{name}_seconds_{part}"), &[label]));
        (sum / count * 1e3, count as usize)
    };
    // A mean feels each delay of a busy machine, so it is compared with the flows' own times, whose medians are right.
    let connects = each(|d| d.connect_ns.unwrap());
    let (v4, v6) = connects.split_at(CONNECTIONS);
    let answers = seen.iter().map(|d| d.response.mean_ns() * f64::from(d.response.count) / 1e6).sum::<f64>();
    for (name, label, sum, count) in [
        ("latency", "10.1.0.1", v4.iter().sum(), CONNECTIONS),
        ("latency", "fd01::1", v6.iter().sum(), CONNECTIONS),
        ("handshake", "side=\"client\"", each(|d| d.handshake_client_ns.unwrap()).iter().sum(), 2 * CONNECTIONS),
        ("handshake", "side=\"server\"", each(|d| d.handshake_server_ns.unwrap()).iter().sum(), 2 * CONNECTIONS),
        ("response", "dst_workload", answers, responses),
    ] {
        let (mean, counted) = mean(name, label);
        assert_eq!(counted, count, "{name} {label}");
        let ms: f64 = sum / count as f64;
        assert!((mean - ms).abs() < 0.01, "{name} {label}: {mean} ms on average, not {ms}");
    }
    agent.stop();
}
