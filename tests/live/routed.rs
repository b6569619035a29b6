//! Connections through a router that netmon runs on: their states and outcomes, and that each counts once although two
//! interfaces see its packets and the ICMP errors about them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netmon::config::Config;
use netmon::flow::{Flow, Outcome, Reason, State};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::agent::{Agent, watching};
use super::metrics::Page;
use super::net::{End, connect, host};
use super::{PATIENCE, eventually};
use crate::needs_root;
use crate::support::netns::Netns;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// A flow is over here after this long without packets.
const SILENCE: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(2);

/// A client, a router that netmon runs on, a server; and destinations that the router refuses.
struct Net {
    client: Netns,
    router: Netns,
    server: Netns,
}

fn net() -> Net {
    let [client, router, server] = ["client", "router", "server"].map(host);
    connect(8, &End { ns: &client, link: "vc", host: 1 }, &End { ns: &router, link: "rc", host: 2 });
    connect(7, &End { ns: &router, link: "rs", host: 2 }, &End { ns: &server, link: "vs", host: 1 });
    for (ns, net) in [(&client, 8), (&server, 7)] {
        ns.sh(&format!("ip route add default via 10.{net}.0.2 && ip -6 route add default via fd0{net}::2"));
        // Allow data on a SYN without a cookie, RFC 7413.
        ns.sh("echo 1543 >/proc/sys/net/ipv4/tcp_fastopen");
    }
    router.sh(
        "echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
         echo 0 >/proc/sys/net/ipv4/icmp_ratemask && echo 0 >/proc/sys/net/ipv6/icmp/ratelimit
         ip route add unreachable 10.66.1.0/24 && ip route add prohibit 10.66.2.0/24 && ip route add blackhole 10.66.4.0/24
         ip -6 route add unreachable fd66:1::/64 && ip -6 route add prohibit fd66:2::/64
         ip -6 route add blackhole fd66:4::/64
         ip link set rs mtu 1400",
    );
    router.sh("nft \"add table inet t; add chain inet t f { type filter hook forward priority 0 ; }\"");
    server.sh("echo 0 >/proc/sys/net/ipv4/icmp_ratemask && echo 0 >/proc/sys/net/ipv6/icmp/ratelimit");
    Net { client, router, server }
}

/// Addresses of one family.
#[derive(Clone, Copy)]
struct Family {
    client: IpAddr,
    server: IpAddr,
    /// Destinations: host unreachable, prohibited, no route, silence.
    nowhere: [IpAddr; 4],
}

fn family(v6: bool) -> Family {
    let ip = |v4: &str, text: &str| if v6 { text } else { v4 }.parse().unwrap();
    Family {
        client: ip("10.8.0.1", "fd08::1"),
        server: ip("10.7.0.1", "fd07::1"),
        nowhere: [
            ip("10.66.1.1", "fd66:1::1"),
            ip("10.66.2.1", "fd66:2::1"),
            ip("10.66.3.1", "fd66:3::1"),
            ip("10.66.4.1", "fd66:4::1"),
        ],
    }
}

/// The expected result of a flow.
struct Case {
    name: &'static str,
    protocol: u8,
    ends: [SocketAddr; 2],
    outcome: Outcome,
    state: State,
    reset_by: Option<u8>,
}

/// The cases of a family as they are made, and sockets that stay open.
struct Cases<'a> {
    net: &'a Net,
    at: Family,
    port: u16,
    cases: Vec<Case>,
    open: Vec<(TcpStream, TcpStream)>,
    datagrams: Vec<UdpSocket>,
}

const OK: Outcome = Outcome::Ok;

fn failed(reason: Reason) -> Outcome {
    Outcome::Failed(reason)
}

impl Cases<'_> {
    /// A client's socket, with a port of its own.
    fn socket(&mut self, kind: Type) -> (Socket, SocketAddr) {
        self.port += 1;
        let from = SocketAddr::new(self.at.client, self.port);
        let socket = self.net.client.run(|| {
            let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
            let socket = Socket::new(Domain::for_address(from), kind, Some(protocol)).unwrap();
            socket.bind(&from.into()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        (socket, from)
    }

    fn expect(&mut self, name: &'static str, protocol: u8, ends: [SocketAddr; 2], outcome: Outcome, state: State) {
        self.cases.push(Case { name, protocol, ends, outcome, state, reset_by: None });
    }

    /// Makes a connection, and then runs `f` on its two ends.
    fn connected(
        &mut self,
        name: &'static str,
        outcome: Outcome,
        state: State,
        by: Option<u8>,
        end: impl FnOnce(TcpStream, TcpStream) -> Option<(TcpStream, TcpStream)>,
    ) {
        let listener = self.net.server.run(|| TcpListener::bind((self.at.server, 0)).unwrap());
        let server = listener.local_addr().unwrap();
        let (socket, from) = self.socket(Type::STREAM);
        socket.connect(&server.into()).unwrap();
        let served = listener.accept().unwrap().0;
        served.set_read_timeout(Some(PATIENCE)).unwrap();
        self.open.extend(end(socket.into(), served));
        self.expect(name, TCP, [from, server], outcome, state);
        self.cases.last_mut().unwrap().reset_by = by;
    }

    /// Attempts a connection that fails.
    fn attempt(&mut self, name: &'static str, to: (IpAddr, u16), outcome: Outcome, state: State) {
        let (socket, from) = self.socket(Type::STREAM);
        let to: SocketAddr = to.into();
        assert!(socket.connect_timeout(&to.into(), Duration::from_millis(300)).is_err(), "{name}");
        self.expect(name, TCP, [from, to], outcome, state);
        if state == State::Reset {
            self.cases.last_mut().unwrap().reset_by = Some(1);
        }
    }

    fn tcp(&mut self) {
        let Family { server, nowhere: [host, prohibited, net, silent], .. } = self.at;
        let end = |mut s: &TcpStream| assert_eq!(s.read(&mut [0; 9]).unwrap(), 0);
        self.connected("closed by the client", OK, State::Closed, None, |mut client, mut served| {
            client.write_all(b"request").unwrap();
            served.read_exact(&mut [0; 7]).unwrap();
            served.write_all(b"answer").unwrap();
            client.read_exact(&mut [0; 6]).unwrap();
            drop(client);
            end(&served);
            None
        });
        self.connected("closed by the server", OK, State::Closed, None, |client, served| {
            drop(served);
            end(&client);
            None
        });
        self.connected("closed by both", OK, State::Closed, None, |client, served| {
            client.shutdown(Shutdown::Write).unwrap();
            served.shutdown(Shutdown::Write).unwrap();
            end(&client);
            end(&served);
            None
        });
        for (name, by) in [("reset by the client", 0), ("reset by the server", 1)] {
            let reason = if by == 0 { Reason::ResetByClient } else { Reason::ResetByServer };
            self.connected(name, failed(reason), State::Reset, Some(by), |client, served| {
                let (mut client, mut served) = (client, served);
                client.write_all(b"what").unwrap();
                served.read_exact(&mut [0; 4]).unwrap();
                let (one, mut other) = if by == 0 { (client, served) } else { (served, client) };
                socket2::SockRef::from(&one).set_linger(Some(Duration::ZERO)).unwrap();
                drop(one);
                assert!(other.read(&mut [0]).is_err());
                None
            });
        }
        self.connected("a RST after the client's FIN", OK, State::Closed, Some(0), |client, mut served| {
            drop(client);
            end(&served);
            // Wait until the RST has arrived.
            eventually("reset", || served.write_all(b"too late").err());
            None
        });
        self.connected("half closed", OK, State::HalfClosed, None, |mut client, mut served| {
            client.shutdown(Shutdown::Write).unwrap();
            served.write_all(b"still here").unwrap();
            client.read_exact(&mut [0; 10]).unwrap();
            Some((client, served))
        });
        self.connected("silent", OK, State::Established, None, |client, served| Some((client, served)));
        self.fast_open();
        self.retried();
        self.attempt("refused", (server, 9), failed(Reason::Refused), State::Reset);
        self.attempt("refused by a filter with RST", (server, 83), failed(Reason::Refused), State::Reset);
        self.attempt("refused by a filter with ICMP", (server, 82), failed(Reason::Refused), State::SynSent);
        self.attempt("dropped by a filter", (server, 84), failed(Reason::Timeout), State::SynSent);
        self.attempt("nobody there", (silent, 80), failed(Reason::Timeout), State::SynSent);
        self.attempt("host unreachable", (host, 80), failed(Reason::Unreachable), State::SynSent);
        self.attempt("prohibited", (prohibited, 80), failed(Reason::Unreachable), State::SynSent);
        self.attempt("no route", (net, 80), failed(Reason::Unreachable), State::SynSent);
    }

    /// A request on the SYN.
    fn fast_open(&mut self) {
        let listener = self.net.server.run(|| TcpListener::bind((self.at.server, 0)).unwrap());
        let server = listener.local_addr().unwrap();
        let (socket, from) = self.socket(Type::STREAM);
        socket.send_to_with_flags(b"request", &server.into(), libc::MSG_FASTOPEN).unwrap();
        let mut served = listener.accept().unwrap().0;
        served.read_exact(&mut [0; 7]).unwrap();
        drop(socket);
        assert_eq!(served.read(&mut [0]).unwrap(), 0);
        drop(served);
        self.expect("data on the SYN", TCP, [from, server], OK, State::Closed);
    }

    /// A connection whose first SYN is dropped on the way.
    fn retried(&mut self) {
        let listener = self.net.server.run(|| TcpListener::bind((self.at.server, 81)).unwrap());
        let server = listener.local_addr().unwrap();
        let (socket, from) = self.socket(Type::STREAM);
        self.net.router.sh("nft add rule inet t f tcp dport 81 drop");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                self.net.router.sh("nft flush chain inet t f");
            });
            socket.connect(&server.into()).unwrap();
        });
        self.net.router.sh(FILTERS);
        drop(listener.accept().unwrap());
        drop(socket);
        self.expect("the first SYN lost", TCP, [from, server], OK, State::Closed);
    }

    fn udp(&mut self) {
        let Family { server, nowhere: [host, prohibited, ..], .. } = self.at;
        let echo = self.net.server.run(|| UdpSocket::bind((server, 7)).unwrap());
        let mute = self.net.server.run(|| UdpSocket::bind((server, 53)).unwrap());
        // A query for example.com, RFC 1035 4.1, recognised by its content.
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
        let long = [0; 1420];
        for (name, to, payload, outcome, state) in [
            ("answered", (server, 7), &b"hello"[..], OK, State::Answered),
            ("sent without an answer", (server, 53), b"hello", OK, State::Unanswered),
            ("a query without an answer", (server, 53), query, failed(Reason::Timeout), State::Unanswered),
            ("port closed", (server, 9), b"hello", failed(Reason::Refused), State::Unanswered),
            ("host unreachable", (host, 9), b"hello", failed(Reason::Unreachable), State::Unanswered),
            ("prohibited", (prohibited, 9), b"hello", failed(Reason::Unreachable), State::Unanswered),
            ("too big for the path", (server, 53), &long, OK, State::Unanswered),
        ] {
            let (socket, from) = self.socket(Type::DGRAM);
            if payload.len() > 1400 && from.is_ipv4() {
                // IP_MTU_DISCOVER: the router must not fragment it.
                let (discover, size) = (libc::IP_PMTUDISC_PROBE, size_of::<libc::c_int>() as u32);
                // SAFETY: the value is an integer of that size.
                let result = unsafe {
                    use std::os::fd::AsRawFd;
                    libc::setsockopt(
                        socket.as_raw_fd(),
                        libc::IPPROTO_IP,
                        libc::IP_MTU_DISCOVER,
                        (&raw const discover).cast(),
                        size,
                    )
                };
                assert_eq!(result, 0);
            }
            let to: SocketAddr = to.into();
            socket.send_to(payload, &to.into()).unwrap();
            let socket = UdpSocket::from(socket);
            if state == State::Answered {
                let (length, peer) = echo.recv_from(&mut [0; 9]).unwrap();
                echo.send_to(&[1; 9][..length], peer).unwrap();
                socket.recv(&mut [0; 9]).unwrap();
            }
            self.datagrams.push(socket);
            self.expect(name, UDP, [from, to], outcome, state);
        }
        self.datagrams.push(mute);
    }

    fn echo(&mut self) {
        let (server, silent) = (self.at.server, self.at.nowhere[3]);
        let protocol = if server.is_ipv6() { 58 } else { 1 };
        self.net.client.sh(&format!("ping -q -c 2 -i 0.2 {server}; ping -q -c 1 -W 1 {silent} || true"));
        for (name, to, outcome, state) in [
            ("answered", server, OK, State::Answered),
            ("no answer", silent, failed(Reason::Timeout), State::Unanswered),
        ] {
            // ping chooses its identifier.
            self.expect(name, protocol, [(self.at.client, 0).into(), (to, 0).into()], outcome, state);
        }
    }
}

const FILTERS: &str = "nft \"add rule inet t f tcp dport 84 drop;
     add rule inet t f tcp dport 82 reject with icmpx type port-unreachable;
     add rule inet t f tcp dport 83 reject with tcp reset\"";

/// Client and server, and the protocol.
type Ends = (u8, [SocketAddr; 2]);

/// The ends as the cases name them, without the identifier that ping chose.
fn ends(flow: &Flow) -> Ends {
    let client = usize::from(flow.client);
    let ports = [TCP, UDP].contains(&flow.protocol);
    let end = |end: usize| {
        let endpoint = flow.endpoint(end);
        SocketAddr::new(endpoint.ip(flow.v6()), if ports { endpoint.port } else { 0 })
    };
    (flow.protocol, [end(client), end(1 - client)])
}

#[test]
fn are_as_they_should_be() {
    needs_root!();
    let net = net();
    let config = Config { connect_timeout: CONNECT, flow_timeout: SILENCE, ..watching(&["rc", "rs"]) };
    let agent = Agent::start(&net.router, config);
    let handle = agent.handle.clone();
    let mut seen: HashMap<Ends, Flow> = HashMap::new();
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    // Flows leave the table some seconds after their end.
    let watcher = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(200)).is_err_and(|error| error.is_timeout()) {
            seen.extend(handle.flows().into_iter().filter(|f| f.outcome.is_some()).map(|f| (ends(&f), f)));
        }
        seen
    });
    let mut cases = Vec::new();
    let mut kept = Vec::new();
    for (v6, port) in [(false, 20_000), (true, 21_000)] {
        let mut made =
            Cases { net: &net, at: family(v6), port, cases: Vec::new(), open: Vec::new(), datagrams: Vec::new() };
        made.echo();
        made.tcp();
        made.udp();
        kept.push((made.open, made.datagrams));
        cases.extend(made.cases);
    }
    // The last flow to end is a silent one, which then waits for late records.
    let last = Instant::now() + SILENCE + Duration::from_secs(6);
    std::thread::sleep(last.saturating_duration_since(Instant::now()));
    drop(stop);
    let seen = watcher.join().unwrap();
    let mut wrong = Vec::new();
    let mut outcomes = HashMap::<(u8, Outcome), u64>::new();
    for case in &cases {
        *outcomes.entry((case.protocol, case.outcome)).or_default() += 1;
        let expected = (Some(case.outcome), case.state, case.reset_by);
        let flow = seen.get(&(case.protocol, case.ends));
        let found = flow.map(|flow| (flow.outcome, flow.state(), flow.reset_by()));
        if found != Some(expected) {
            wrong.push(format!("{} ({:?}): {found:?}, not {expected:?}", case.name, case.ends));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let retried = cases.iter().find(|case| case.name == "the first SYN lost").unwrap();
    let details = seen[&(TCP, retried.ends)].details.as_ref().unwrap();
    assert_eq!(details.troubles[usize::from(seen[&(TCP, retried.ends)].client)].retransmits, 1);

    // Each flow counts once, and there are no others.
    let page = Page::get(&net.router, &agent, "/metrics");
    for (protocol, number) in [("tcp", TCP), ("udp", UDP)] {
        let reasons =
            [Reason::Refused, Reason::Timeout, Reason::ResetByClient, Reason::ResetByServer, Reason::Unreachable];
        for outcome in reasons.map(failed).into_iter().chain([OK]) {
            let reason = outcome.reason().map_or("", Reason::label);
            let labels = [format!("protocol=\"{protocol}\""), format!("reason=\"{reason}\"")];
            let counted = page.sum("netmon_flows_total", &labels.each_ref().map(|l| &**l)) as u64;
            assert_eq!(counted, outcomes.get(&(number, outcome)).copied().unwrap_or(0), "{protocol} {outcome:?}");
        }
    }
    for (kind, count) in
        [("host_unreachable", 2.0), ("admin_prohibited", 4.0), ("port_unreachable", 4.0), ("too_big", 2.0)]
    {
        let counted = page.sum("netmon_icmp_errors_total", &[&format!("kind=\"{kind}\"")]);
        assert_eq!(counted, count, "{kind}, however many interfaces it passed");
    }
    agent.stop();
    drop(kept);
}
