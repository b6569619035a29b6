//! States and outcomes of connections of real sockets, case by case, and who reset them. The network is a veth pair;
//! nftables on the server's side drops and rejects.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netmon::config::Config;
use netmon::flow::Reason::{Refused, ResetByClient, ResetByServer, Timeout, Unreachable};
use netmon::flow::{Direction, Flow, FlowKey, Outcome, State};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::agent::{Agent, watching};
use super::net::quiet_pair;
use super::{PATIENCE, eventually};
use crate::needs_root;
use crate::support::netns::Netns;

/// State, outcome if there is one, and who reset it: 0 for the client, 1 for the server.
type Fate = (State, Option<Outcome>, Option<u8>);

const OK: Option<Outcome> = Some(Outcome::Ok);
const CLOSED: Fate = (State::Closed, OK, None);

fn failed(state: State, reason: netmon::flow::Reason) -> Fate {
    (state, Some(Outcome::Failed(reason)), None)
}

/// The two hosts, the agent at the client's interface, and its results for each flow so far.
struct Stage {
    a: Netns,
    b: Netns,
    agent: Agent,
    v6: bool,
    seen: HashMap<FlowKey, Flow>,
    wanted: Vec<(&'static str, u8, u16, Fate)>,
    port: u16,
}

impl Stage {
    fn new(v6: bool) -> Stage {
        let (a, b) = quiet_pair();
        for ns in [&a, &b] {
            // Each packet should get its error.
            ns.sh("cd /proc/sys/net && echo 3 >ipv4/tcp_fastopen && echo 0 >ipv4/icmp_ratelimit && echo 0 >ipv6/icmp/ratelimit");
        }
        b.sh("nft add table inet t && nft add chain inet t in \"{ type filter hook input priority 0; }\"");
        let short = Config {
            connect_timeout: Duration::from_secs(1),
            flow_timeout: Duration::from_secs(6),
            ..watching(&["va"])
        };
        let agent = Agent::start(&a, short);
        Stage { a, b, agent, v6, seen: HashMap::new(), wanted: Vec::new(), port: 41_000 }
    }

    fn host(&self, host: u8) -> IpAddr {
        if self.v6 { IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, u16::from(host)]) } else { IpAddr::from([10, 9, 0, host]) }
    }

    fn server(&self, port: u16) -> SocketAddr {
        (self.host(2), port).into()
    }

    fn nft(&self, rule: &str) {
        self.b.sh(&format!("nft add rule inet t in {rule}"));
    }

    fn listen(&self, port: u16) -> TcpListener {
        let server = self.server(port);
        self.b.run(|| TcpListener::bind(server).unwrap())
    }

    /// A client socket on a port of its own, for which `fate` is expected.
    fn socket(&mut self, name: &'static str, fate: Fate) -> Socket {
        self.port += 1;
        self.wanted.push((name, 6, self.port, fate));
        let from: SocketAddr = (self.host(1), self.port).into();
        self.a.run(|| {
            let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.bind(&from.into()).unwrap();
            socket
        })
    }

    /// Makes a connection; returns both ends.
    fn connect(&mut self, name: &'static str, listener: &TcpListener, fate: Fate) -> (TcpStream, TcpStream) {
        let client = self.socket(name, fate);
        client.connect(&listener.local_addr().unwrap().into()).unwrap();
        let (served, _) = listener.accept().unwrap();
        served.set_read_timeout(Some(PATIENCE)).unwrap();
        (client.into(), served)
    }

    fn fail_to_connect(&mut self, name: &'static str, port: u16, fate: Fate) {
        let (client, server) = (self.socket(name, fate), self.server(port));
        assert!(client.connect_timeout(&server.into(), Duration::from_millis(300)).is_err(), "{name}");
    }

    fn datagram(&mut self, name: &'static str, port: u16, fate: Fate) -> UdpSocket {
        self.port += 1;
        self.wanted.push((name, 17, self.port, fate));
        let (from, to): (SocketAddr, _) = ((self.host(1), self.port).into(), self.server(port));
        let client = self.a.run(|| UdpSocket::bind(from).unwrap());
        client.connect(to).unwrap();
        client.send(b"x").unwrap();
        client
    }

    fn ping(&mut self, name: &'static str, host: u8, fate: Fate) {
        // The last part of the address takes the place of the port.
        self.wanted.push((name, if self.v6 { 58 } else { 1 }, host.into(), fate));
        let _ = self.a.command("ping").args(["-c", "1", "-W", "1", &self.host(host).to_string()]).output().unwrap();
    }

    /// Waits until all flows have the expected results.
    fn check(&mut self) {
        let start = Instant::now();
        loop {
            self.seen.extend(self.agent.handle.flows().into_iter().map(|flow| (flow.key(), flow)));
            let found = |protocol: u8, port: u16| {
                self.seen.values().find(|f| {
                    let (client, server) = (f.endpoint(usize::from(f.client)), f.endpoint(usize::from(f.client ^ 1)));
                    let host = if f.v6() { server.address[15] } else { server.address[3] };
                    let echo = [1, 58].contains(&protocol) && client.port != 0 && u16::from(host) == port;
                    f.protocol == protocol && (echo || client.port == port)
                })
            };
            let of = |f: &Flow| (f.state(), f.outcome, f.reset_by());
            let wrong: Vec<_> = self
                .wanted
                .iter()
                .map(|(name, protocol, port, fate)| (name, found(*protocol, *port).map(of), fate))
                .filter(|(_, is, fate)| is.as_ref() != Some(*fate))
                .collect();
            if wrong.is_empty() {
                let mut ours = self.seen.values().filter(|f| [6, 17].contains(&f.protocol));
                assert!(ours.all(|f| f.direction == Direction::Egress), "all were opened here");
                self.wanted.clear();
                return;
            }
            assert!(start.elapsed() < PATIENCE, "is, and should be: {wrong:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Sends one byte to the server and one back.
fn talk((client, served): &mut (TcpStream, TcpStream)) {
    client.write_all(b"q").unwrap();
    served.read_exact(&mut [0]).unwrap();
    served.write_all(b"a").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

fn read_end(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0, "the other end closes");
}

fn linger_not(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

fn both_families(test: impl Fn(&mut Stage)) {
    for v6 in [false, true] {
        test(&mut Stage::new(v6));
    }
}

/// The client sends a request, and the server reads it.
fn ask((client, served): &mut (TcpStream, TcpStream)) {
    client.write_all(b"what").unwrap();
    served.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn of_connections_that_are_closed() {
    needs_root!();
    both_families(|stage| {
        let listener = stage.listen(80);
        let mut plain = stage.connect("closed by both", &listener, CLOSED);
        talk(&mut plain);
        drop(plain);
        let mut rude = stage.connect("reset after one FIN", &listener, (State::Closed, OK, Some(1)));
        rude.0.shutdown(Shutdown::Write).unwrap();
        read_end(&mut rude.1);
        linger_not(rude.1);
        let reset = |reason| Some(Outcome::Failed(reason));
        let mut by_server =
            stage.connect("reset by the server", &listener, (State::Reset, reset(ResetByServer), Some(1)));
        ask(&mut by_server);
        linger_not(by_server.1);
        let mut by_client =
            stage.connect("reset by the client", &listener, (State::Reset, reset(ResetByClient), Some(0)));
        ask(&mut by_client);
        linger_not(by_client.0);
        // Nothing is cut off.
        let idle = stage.connect("closed by a RST of the server", &listener, (State::Reset, OK, Some(1)));
        linger_not(idle.1);
        let mut answered = stage.connect("closed by a RST after the answer", &listener, (State::Reset, OK, Some(0)));
        ask(&mut answered);
        answered.1.write_all(b"answer").unwrap();
        answered.0.read_exact(&mut [0; 6]).unwrap();
        linger_not(answered.0);
        let mut half = stage.connect("half closed", &listener, (State::HalfClosed, None, None));
        half.0.shutdown(Shutdown::Write).unwrap();
        read_end(&mut half.1);
        half.1.write_all(b"still").unwrap();
        half.0.read_exact(&mut [0; 5]).unwrap();
        let open = stage.connect("open", &listener, (State::Established, None, None));
        stage.check();
        drop((half, open, by_server.0, by_client.1, rude.0, idle.0, answered.1));
    });
}

#[test]
fn of_connections_that_are_not_answered() {
    needs_root!();
    both_families(|stage| {
        stage.fail_to_connect("refused", 9, (State::Reset, Some(Outcome::Failed(Refused)), Some(1)));
        stage.nft("tcp dport 81 drop");
        stage.fail_to_connect("dropped", 81, failed(State::SynSent, Timeout));
        let kinds = if stage.v6 {
            ["no-route", "addr-unreachable", "admin-prohibited", "port-unreachable"]
        } else {
            ["net-unreachable", "host-unreachable", "admin-prohibited", "port-unreachable"]
        };
        let icmp = if stage.v6 { "icmpv6" } else { "icmp" };
        for (port, kind) in (90..).zip(kinds) {
            stage.nft(&format!("th dport {port} reject with {icmp} type {kind}"));
            let reason = if kind == "port-unreachable" { Refused } else { Unreachable };
            stage.fail_to_connect(kind, port, failed(State::SynSent, reason));
            stage.datagram(kind, port, failed(State::Unanswered, reason));
        }
        stage.check();
    });
}

/// The server's side drops the first SYN; the client's retry, a second later, passes.
#[test]
fn of_a_repeated_syn() {
    needs_root!();
    both_families(|stage| {
        let listener = stage.listen(82);
        stage.nft("tcp dport 82 counter drop");
        let client = stage.socket("SYN sent again", CLOSED);
        let server = stage.server(82);
        let (b, dropped) = (&stage.b, "nft list chain inet t in | grep -c packets.1 || true");
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| client.connect(&server.into()).unwrap());
            eventually("the SYN is dropped", || (b.sh(dropped).trim() == "1").then_some(()));
            b.sh("nft flush chain inet t in");
            connecting.join().unwrap();
        });
        let mut ends = (TcpStream::from(client), listener.accept().unwrap().0);
        talk(&mut ends);
        drop(ends);
        stage.check();
        // Details from a separate record may come after the end.
        let (agent, seen) = (&stage.agent, &mut stage.seen);
        let flow = eventually("the second SYN is a retransmission", || {
            seen.extend(agent.handle.flows().into_iter().map(|flow| (flow.key(), flow)));
            let flow = seen.values().find(|f| f.protocol == 6).unwrap();
            let details = flow.details.as_ref()?;
            (details.troubles[usize::from(flow.client)].retransmits > 0).then(|| flow.clone())
        });
        let details = flow.details.as_ref().unwrap();
        assert_eq!(details.troubles[usize::from(flow.client)].retransmits, 1);
        assert!(details.connect_ns.unwrap() > 900_000_000, "from the first SYN on");
        assert_eq!(details.handshake_server_ns, None, "which SYN was answered is not known (Karn)");
    });
}

/// The first SYN is lost after the veth; the other side opens the same connection before it is repeated.
#[test]
fn of_two_ends_that_open_at_once() {
    needs_root!();
    both_families(|stage| {
        stage.nft("tcp dport 83 counter drop");
        let client = stage.socket("simultaneous open", CLOSED);
        let (server, from) = (stage.server(83), (stage.host(1), stage.port).into());
        let from: SocketAddr = from;
        let (b, dropped) = (&stage.b, "nft list chain inet t in | grep -c packets.1 || true");
        let other = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| client.connect(&server.into()).unwrap());
            eventually("the SYN is dropped", || (b.sh(dropped).trim() == "1").then_some(()));
            b.sh("nft flush chain inet t in");
            let other = b.run(|| {
                let other = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
                other.bind(&server.into()).unwrap();
                other.connect(&from.into()).unwrap();
                other
            });
            connecting.join().unwrap();
            other
        });
        let mut ends = (TcpStream::from(client), TcpStream::from(other));
        talk(&mut ends);
        drop(ends);
        stage.check();
        let flow = stage.seen.values().find(|f| f.protocol == 6).unwrap();
        assert!(flow.from_client().syn() && flow.from_server().syn(), "both sent a SYN");
    });
}

fn fast_open(socket: &Socket, option: i32, value: i32) {
    use std::os::fd::AsRawFd;
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value outlives the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), size) };
    assert_eq!(result, 0);
}

/// RFC 7413: the first connection requests a cookie, the second sends its request with the SYN.
#[test]
fn of_data_on_a_syn() {
    needs_root!();
    both_families(|stage| {
        let listener = stage.listen(84);
        let listener = Socket::from(listener);
        fast_open(&listener, libc::TCP_FASTOPEN, 8);
        let listener = TcpListener::from(listener);
        for name in ["asks for a cookie", "data on SYN"] {
            let client = stage.socket(name, CLOSED);
            fast_open(&client, libc::TCP_FASTOPEN_CONNECT, 1);
            client.connect(&stage.server(84).into()).unwrap();
            let mut client = TcpStream::from(client);
            client.write_all(b"q").unwrap();
            let mut ends = (client, listener.accept().unwrap().0);
            ends.1.read_exact(&mut [0]).unwrap();
            talk(&mut ends);
        }
        stage.check();
        let active = stage.a.sh("grep ^TcpExt /proc/net/netstat");
        let mut lines = active.lines().map(|line| line.split(' '));
        let (names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.into_iter().position(|name| name == "TCPFastOpenActive").unwrap();
        assert_eq!(values.nth(at), Some("1"), "the second SYN did carry data");
    });
}

#[test]
fn of_datagrams_and_pings() {
    needs_root!();
    both_families(|stage| {
        let (answering, silent) = (stage.server(53), stage.server(54));
        let echo = stage.b.run(|| UdpSocket::bind(answering).unwrap());
        let _mute = stage.b.run(|| UdpSocket::bind(silent).unwrap());
        let client = stage.datagram("answered", 53, (State::Answered, OK, None));
        let (n, from) = echo.recv_from(&mut [0; 9]).unwrap();
        echo.send_to(&[0; 9][..n], from).unwrap();
        client.recv(&mut [0; 9]).unwrap();
        stage.datagram("not answered", 54, (State::Unanswered, OK, None));
        stage.datagram("nobody there", 9, failed(State::Unanswered, Refused));
        stage.ping("echo", 2, (State::Answered, OK, None));
        // A hardware address that no host has.
        let nobody = stage.host(99);
        stage.a.sh(&format!("ip neigh replace {nobody} lladdr 02:00:00:00:09:99 dev va nud permanent"));
        stage.ping("echo to nobody", 99, failed(State::Unanswered, Timeout));
        stage.check();
    });
}

/// Connections that began before the agent, so that it has not seen their SYN.
#[test]
fn of_connections_first_seen_after_their_start() {
    needs_root!();
    let (a, b) = quiet_pair();
    let listener = b.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    let client = a.run(|| TcpStream::connect("10.9.0.2:80").unwrap());
    let mut ends = (client, listener.accept().unwrap().0);
    for (ns, link, direction) in [(&a, "va", Direction::Egress), (&b, "vb", Direction::Ingress)] {
        let agent = Agent::start(ns, watching(&[link]));
        talk(&mut ends);
        let flow = eventually("the flow", || {
            agent.handle.flows().into_iter().find(|f| f.protocol == 6 && f.from_server().packets > 0)
        });
        let server = flow.endpoint(usize::from(flow.client ^ 1)).port;
        let got = (flow.state(), flow.outcome, flow.direction, server);
        assert_eq!(got, (State::Established, None, direction, 80), "the lower port serves");
    }
}
