//! Many clients that send nothing, send slowly, never read, or vanish without closing: probes and scrapes are still
//! answered.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::libc;
use socket2::{Domain, Socket, Type};

use super::binary::{NETMON, Program};
use super::metrics::get;
use super::net::quiet_pair;
use super::traffic::transfer;
use crate::needs_root;
use crate::support::late::Lateness;
use crate::support::netns::Netns;

/// Number of addresses that clients come from.
const ADDRESSES: u8 = 200;
/// Number of open connections from each address.
const OPEN: usize = 6;
/// Maximum time of an answer, apart from delays of the whole machine.
const IN_TIME: Duration = Duration::from_secs(1);

/// The behaviour of a client.
#[derive(Clone, Copy)]
enum Kind {
    Silent,
    /// It sends a byte of its request now and then.
    Slow,
    /// It sends requests, and never reads.
    NeverReads,
    /// Its end is gone, without notice to the server.
    HalfOpen,
}

const KINDS: [Kind; 4] = [Kind::Silent, Kind::Slow, Kind::NeverReads, Kind::HalfOpen];

/// Hostile clients, until this value is dropped.
struct Hostile {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Hostile {
    /// Starts them at the addresses from 10.9.1.1 on, which belong to `ns`.
    fn start(ns: &Netns, server: SocketAddr) -> Hostile {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = KINDS.iter().enumerate().map(|(number, &kind)| {
            let (stop, opened) = (Arc::clone(&stop), Arc::clone(&opened));
            let work = move || {
                let mine = (1..=ADDRESSES).filter(|last| usize::from(*last) % KINDS.len() == number);
                let mut open: Vec<(Ipv4Addr, VecDeque<Socket>)> =
                    mine.map(|last| (Ipv4Addr::new(10, 9, 1, last), VecDeque::new())).collect();
                while !stop.load(Relaxed) {
                    for (address, sockets) in &mut open {
                        if sockets.len() >= OPEN {
                            sockets.pop_front();
                        }
                        sockets.extend(come(*address, server, kind));
                        opened.fetch_add(1, Relaxed);
                        for socket in sockets.iter().filter(|_| matches!(kind, Kind::Slow)) {
                            let _ = socket.send(b"G");
                        }
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            };
            ns.run(|| std::thread::spawn(work))
        });
        let threads = threads.collect();
        Hostile { stop, opened, threads }
    }
}

fn come(from: Ipv4Addr, server: SocketAddr, kind: Kind) -> Option<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.set_recv_buffer_size(4096);
    // The connection is being opened; whether it succeeds depends on the server.
    let _ = socket.connect(&server.into());
    match kind {
        Kind::Silent | Kind::Slow => Some(socket),
        Kind::NeverReads => {
            std::thread::sleep(Duration::from_millis(1));
            let _ = socket.send(b"GET /metrics HTTP/1.1\r\nHost: n\r\n\r\n");
            Some(socket)
        }
        Kind::HalfOpen => {
            std::thread::sleep(Duration::from_millis(1));
            let on: libc::c_int = 1;
            // SAFETY: the target of the pointer outlives the call.
            unsafe {
                // A socket in repair mode is closed without a FIN or a RST.
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    libc::TCP_REPAIR,
                    (&raw const on).cast(),
                    size_of_val(&on) as libc::socklen_t,
                );
            }
            None
        }
    }
}

/// Sends one request; returns how long it took, or an error if the answer was wrong.
fn ask(from: Option<Ipv4Addr>, server: SocketAddr, path: &str) -> Result<Duration, String> {
    let begun = Instant::now();
    let answered = (|| -> std::io::Result<String> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        socket.connect_timeout(&server.into(), super::PATIENCE)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(super::PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })();
    match answered {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(begun.elapsed()),
        Ok(answer) => Err(format!("{path}: {:?}", answer.lines().next())),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// Lets the agent be asked for this time, beside hostile clients. Returns the longest time of an answer, and how late the machine
/// was.
fn hold_against(time: Duration) -> [Duration; 2] {
    let (a, b) = quiet_pair();
    for last in 1..=ADDRESSES {
        a.sh(&format!("ip addr add 10.9.1.{last}/32 dev va"));
    }
    // Two hosts that ask properly.
    let elsewhere = [1, 2].map(|last| Ipv4Addr::new(10, 9, 2, last));
    for address in elsewhere {
        a.sh(&format!("ip addr add {address}/32 dev va"));
    }
    b.sh("ip route add 10.9.1.0/24 via 10.9.0.1 && ip route add 10.9.2.0/24 via 10.9.0.1");
    let mut command = b.command(NETMON);
    command.args(["--interface", "vb", "--metrics-addr", ":9090", "--socket", "none"]);
    let mut program = Program::spawn(command);
    program.wait_for("ready");
    // Traffic for the metrics to report.
    transfer(&a, &b, IpAddr::from([10, 9, 0, 2]), 50, 1000);
    let [inside, own]: [SocketAddr; 2] = ["127.0.0.1:9090", "10.9.0.2:9090"].map(|at| at.parse().unwrap());
    let hostile = Hostile::start(&a, own);
    let lateness = Lateness::start();
    let asked: Vec<Result<Duration, String>> = std::thread::scope(|scope| {
        // The kubelet's probes come from the host itself, to either address; Prometheus from elsewhere.
        let asking = [
            (&b, None, inside, "/healthz"),
            (&b, None, own, "/readyz"),
            (&b, None, own, "/metrics"),
            (&a, Some(elsewhere[0]), own, "/metrics"),
            (&a, Some(elsewhere[1]), own, "/healthz"),
        ];
        let asking = asking.map(|(ns, from, server, path)| {
            let end = Instant::now() + time;
            scope.spawn(move || {
                ns.run(|| {
                    let mut took = Vec::new();
                    while Instant::now() < end {
                        took.push(ask(from, server, path));
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    took
                })
            })
        });
        asking.into_iter().flat_map(|asking| asking.join().unwrap()).collect()
    });
    let late = lateness.most();
    let opened = hostile.opened.load(Relaxed);
    let most = asked.iter().flatten().max().copied().unwrap_or_default();
    let failed: Vec<&String> = asked.iter().filter_map(|asked| asked.as_ref().err()).collect();
    eprintln!(
        "{} requests beside {opened} hostile connections: the longest took {most:?}; not answered: {failed:?}; the machine \
         was late by {late:?}",
        asked.len()
    );
    assert!(failed.is_empty(), "{} of {} were not answered: {failed:?}", failed.len(), asked.len());
    assert!(opened > 10 * u64::from(ADDRESSES), "{opened} connections");
    drop(hostile);
    let page = get(&b, inside, "/metrics");
    assert!(page.sum("netmon_clients_turned_away_total", &["server=\"metrics\"", "reason=\"made_way\""]) > 100.0);
    program.signal("TERM");
    assert!(program.end().0.success());
    [most, late]
}

#[test]
fn probes_and_scrapes_are_answered_despite_hostile_clients() {
    needs_root!();
    hold_against(Duration::from_secs(5));
}

#[test]
#[ignore = "takes a minute and a machine of its own"]
fn probes_and_scrapes_are_answered_in_time_despite_hostile_clients() {
    needs_root!();
    let [most, late] = hold_against(Duration::from_secs(60));
    assert!(most < IN_TIME + 5 * late, "{most:?}");
}
