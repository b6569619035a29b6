//! How connections end, as the agent counts it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use netmon::config::Config;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use super::agent::{Agent, watching};
use super::eventually;
use super::metrics::Page;
use super::net::quiet_pair;
use crate::needs_root;
use crate::support::netns::Netns;

/// A socket whose port may be reused at once.
fn socket(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let from: SocketAddr = ([10, 9, 0, 1], port).into();
    socket.bind(&from.into()).unwrap();
    socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
    socket
}

/// Keeps the calling thread on one CPU, which then sees all its packets and their answers. Records of two CPUs about
/// the same ports within a second cannot always be told apart.
fn stay_on_a_cpu() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let first = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(this, &one).unwrap();
}

/// A request and an answer; the server closes first, so that the client's port is free at once.
fn succeed(a: &Netns, listener: &TcpListener, port: u16) {
    let server = listener.local_addr().unwrap();
    a.run(|| {
        stay_on_a_cpu();
        let mut client = socket(port);
        client.connect(&server.into()).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        client.write_all(b"request").unwrap();
        served.read_exact(&mut [0; 7]).unwrap();
        served.write_all(b"answer").unwrap();
        drop(served);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
    });
}

fn reset(a: &Netns, listener: &TcpListener, port: u16) {
    let server = listener.local_addr().unwrap();
    a.run(|| {
        stay_on_a_cpu();
        let client = socket(port);
        client.connect(&server.into()).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        // A request that gets no answer.
        client.send(b"?").unwrap();
        served.read_exact(&mut [0]).unwrap();
        client.set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        served.set_read_timeout(Some(super::PATIENCE)).unwrap();
        assert!(served.read(&mut [0]).is_err(), "reset");
    });
}

fn refuse(a: &Netns, port: u16) {
    let nobody: SocketAddr = ([10, 9, 0, 2], 9).into();
    a.run(|| assert!(socket(port).connect(&nobody.into()).is_err()));
}

/// One SYN to a missing host: its neighbour entry has a hardware address that no host has.
fn fall_silent(a: &Netns, port: u16) {
    let silent: SocketAddr = ([10, 9, 0, 99], 80).into();
    a.sh("ip neigh replace 10.9.0.99 lladdr 02:00:00:00:09:99 dev va nud permanent");
    a.run(|| assert!(socket(port).connect_timeout(&silent.into(), Duration::from_millis(50)).is_err()));
}

/// Counts of ok, refused, reset, timeout.
fn outcomes(b: &Netns, agent: &Agent) -> [u64; 4] {
    let page = Page::get(b, agent, "/metrics");
    let count = |status, reason: &str| {
        page.sum("netmon_flows_total", &["protocol=\"tcp\"", &format!("status=\"{status}\""), reason]) as u64
    };
    let failed = ["refused", "reset_client", "timeout"].map(|r| count("failed", &format!("reason=\"{r}\"")));
    [count("ok", "reason=\"\""), failed[0], failed[1], failed[2]]
}

fn wait_for(b: &Netns, agent: &Agent, wanted: [u64; 4]) {
    let mut last = [0; 4];
    let start = std::time::Instant::now();
    loop {
        last = if start.elapsed() < super::PATIENCE { outcomes(b, agent) } else { last };
        if last == wanted {
            return;
        }
        assert!(start.elapsed() < super::PATIENCE, "ok, refused, reset, timeout: {last:?}, not {wanted:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn quick(config: Config) -> Config {
    Config { connect_timeout: Duration::from_secs(1), ..config }
}

#[test]
fn are_distinguished() {
    needs_root!();
    let (a, b) = quiet_pair();
    for (ns, link) in [(&b, "vb"), (&a, "va")] {
        let agent = Agent::start(ns, quick(watching(&[link])));
        let listener = b.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
        (0..4).for_each(|i| succeed(&a, &listener, 21_000 + i));
        (0..3).for_each(|i| refuse(&a, 22_000 + i));
        (0..2).for_each(|i| reset(&a, &listener, 23_000 + i));
        fall_silent(&a, 24_000);
        wait_for(ns, &agent, [4, 3, 2, 1]);
        let page = Page::get(ns, &agent, "/metrics");
        let direction = if link == "va" { "direction=\"egress\"" } else { "direction=\"ingress\"" };
        assert_eq!(page.sum("netmon_flows_total", &["protocol=\"tcp\"", direction]), 10.0, "seen from the interface");
        agent.stop();
        // The server's ports are in TIME-WAIT for the connections that it closed first, so the next ones use others.
        a.sh("ip neigh del 10.9.0.99 dev va");
    }
}

/// A reused port is a new connection each time, however fast.
#[test]
fn of_reused_ports() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, quick(watching(&["vb"])));
    let listener = b.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    for _ in 0..5 {
        reset(&a, &listener, 30_000);
        succeed(&a, &listener, 30_002);
        reset(&a, &listener, 30_003);
        succeed(&a, &listener, 30_003);
    }
    wait_for(&b, &agent, [10, 0, 10, 0]);
    let (report, _) = agent.stop();
    assert!(report.conservation().holds(), "{}", report.conservation());
}

/// On loopback, each connection appears at two hooks, but is one.
#[test]
fn are_counted_once() {
    needs_root!();
    let ns = super::net::host("lo");
    ns.sh("ip addr add 10.9.0.1/32 dev lo && ip addr add 10.9.0.2/32 dev lo");
    let agent = Agent::start(&ns, quick(watching(&["lo"])));
    let listener = ns.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    (0..20).for_each(|i| succeed(&ns, &listener, 31_000 + i));
    (0..20).for_each(|i| reset(&ns, &listener, 32_000 + i));
    (0..20).for_each(|i| refuse(&ns, 33_000 + i));
    // Read the tables, because scrapes would be connections on the same interface.
    let ended = eventually("the ends of all", || {
        let flows = agent.handle.flows();
        let ours = flows.iter().filter(|f| f.outcome.is_some()).count();
        (ours == 60 && agent.handle.report().conservation().holds()).then_some(flows)
    });
    assert_eq!(ended.len(), 60);
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.accounted == sum.duplicate, "{sum}");
}
