//! A flow as its readers see it: one set of fields, which filters test and outputs print. Their names are an interface: programs read
//! them.

mod ends;

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::bpf::{App, Hook};
use crate::flow::{Direction, Flow, Sent, Stat, protocol_name};

pub use ends::Ends;

/// What a line needs besides the flow itself. Everything may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineContext {
    /// Offset from the flow's clock to nanoseconds since 1970.
    pub clock_offset_ns: i64,
    /// Length of the ticks in which packets get their times, in nanoseconds; 0 if each has a time of its own.
    pub tick_ns: u64,
    /// Name of the flow's interface.
    pub interface: Option<String>,
    /// True if hooks and directions are known, so that they are printed.
    pub directions: bool,
}

/// A flow as it is printed. A value that is not known is absent, never 0.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    /// Identifies the flow in the same output.
    pub id: u64,
    /// Time of the first packet, RFC 3339.
    pub start: String,
    /// Time of the last packet, RFC 3339.
    pub end: String,
    /// Seconds between them.
    pub duration_s: f64,
    /// Protocol by name, else by number.
    pub protocol: String,
    /// `ingress` if the remote end opened it, else `egress`.
    pub direction: Option<&'static str>,
    /// Address of the end that opened it.
    pub client_ip: Option<IpAddr>,
    /// Port of the client, if the protocol has ports.
    pub client_port: Option<u16>,
    /// Address of the end that answers.
    pub server_ip: Option<IpAddr>,
    /// Port of the server, if the protocol has ports.
    pub server_port: Option<u16>,
    /// Packets that the client sent.
    pub client_packets: u64,
    /// Bytes that the client sent, on the wire, from the link-layer header on.
    pub client_bytes: u64,
    /// Packets that the server sent.
    pub server_packets: u64,
    /// Bytes that the server sent, on the wire, from the link-layer header on.
    pub server_bytes: u64,
    /// TCP flags of all the client's packets: `SYN|ACK`.
    pub client_tcp_flags: Option<String>,
    /// TCP flags of all the server's packets.
    pub server_tcp_flags: Option<String>,
    /// State of the flow, see [`crate::flow::State`].
    pub state: Option<&'static str>,
    /// `ok`, `failed` or `active`.
    pub status: &'static str,
    /// Why it failed.
    pub reason: Option<&'static str>,
    /// Who sent the first RST, `client` or `server`, whether or not that was a failure.
    pub reset_by: Option<&'static str>,
    /// Application protocol.
    pub app_protocol: Option<&'static str>,
    /// Protocol that it changed to in the same connection: `tls` after STARTTLS.
    pub app_protocol_next: Option<&'static str>,
    /// TLS version: `1.3`.
    pub tls_version: Option<&'static str>,
    /// Time from SYN-ACK to ACK, in microseconds.
    pub handshake_client_us: Option<f64>,
    /// Time from SYN to SYN-ACK, in microseconds.
    pub handshake_server_us: Option<f64>,
    /// Times from data to its ACK.
    pub rtt_us: Option<Stats>,
    /// Times from the last byte of a request to the first of its response.
    pub response_us: Option<Stats>,
    /// TCP segments that the client retransmitted.
    pub client_retransmits: Option<u64>,
    /// TCP segments that the server retransmitted.
    pub server_retransmits: Option<u64>,
    /// Interface that it was seen at.
    pub interface: Option<String>,
    /// Hook that saw the client's packets.
    pub hook: Option<&'static str>,
    /// ICMP type of the client's latest packet.
    pub icmp_type: Option<u8>,
    /// ICMP code of the client's latest packet.
    pub icmp_code: Option<u8>,
    /// Outer VLAN id.
    pub vlan: Option<u16>,
    /// Names of the client.
    pub client: Option<Ends>,
    /// Names of the server.
    pub server: Option<Ends>,
    /// Translated addresses.
    pub nat: Option<Nat>,
}

/// A summary of repeated measurements, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Stats {
    /// Number of measurements.
    pub count: u64,
    /// The shortest time.
    pub min: f64,
    /// The mean time.
    pub mean: f64,
    /// The longest time.
    pub max: f64,
    /// The latest time.
    pub last: f64,
}

/// The translated addresses and ports of a flow.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Nat {
    pub server_ip: Option<IpAddr>,
    pub server_port: Option<u16>,
    pub client_ip: Option<IpAddr>,
    pub client_port: Option<u16>,
}

pub(crate) const TCP: u8 = 6;
pub(crate) const ICMP: [u8; 2] = [1, 58];
/// TCP, UDP, SCTP.
pub(crate) const WITH_PORTS: [u8; 3] = [TCP, 17, 132];

/// Names of the TCP flags (RFC 9293, 3.1), from the lowest bit on.
const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

impl Line {
    /// All fields of `flow`.
    pub fn new(id: u64, flow: &Flow, context: &LineContext) -> Line {
        let protocol = flow.protocol;
        let (start, end) = Time::of(flow, context.tick_ns);
        Line {
            id,
            start: start.rfc3339(context),
            end: end.rfc3339(context),
            duration_s: start.seconds_to(end),
            client_tcp_flags: flags(protocol, flow.from_client()),
            server_tcp_flags: flags(protocol, flow.from_server()),
            interface: context.interface.clone(),
            ..Line::early(flow, context.directions)
        }
    }

    /// Only the cheap fields, which in most cases are enough to decide whether the others are needed. `directions` is
    /// as in [`LineContext`].
    pub fn early(flow: &Flow, directions: bool) -> Line {
        let client = usize::from(flow.client & 1);
        let [client_end, server_end] = [client, 1 - client].map(|end| flow.endpoint(end));
        let (from_client, from_server) = (flow.from_client(), flow.from_server());
        let protocol = flow.protocol;
        let port = |port| WITH_PORTS.contains(&protocol).then_some(port);
        // Show properties of the client's packets; those of the server only if the client sent nothing.
        let shown = if from_client.packets > 0 { from_client } else { from_server };
        let details = flow.details.as_deref();
        let retransmits =
            |end: usize| (protocol == TCP).then(|| details.map_or(0, |d| u64::from(d.troubles[end].retransmits)));
        let icmp = |value| ICMP.contains(&protocol).then_some(value);
        Line {
            protocol: protocol_name(protocol).into_owned(),
            direction: directions.then(|| Direction::name(flow.direction)),
            client_ip: Some(client_end.ip(flow.v6())),
            client_port: port(client_end.port),
            server_ip: Some(server_end.ip(flow.v6())),
            server_port: port(server_end.port),
            client_packets: from_client.packets,
            client_bytes: from_client.bytes,
            server_packets: from_server.packets,
            server_bytes: from_server.bytes,
            status: flow.outcome.map_or("active", |outcome| outcome.status().name()),
            reason: flow.outcome.and_then(|outcome| outcome.reason()).map(|reason| reason.name()),
            reset_by: flow.reset_by().map(|end| if end == 0 { "client" } else { "server" }),
            hook: directions.then(|| Hook::name(shown.hook())),
            icmp_type: icmp(shown.icmp()[0]),
            icmp_code: icmp(shown.icmp()[1]),
            vlan: (shown.vlan != 0).then_some(shown.vlan),
            state: Some(flow.state().name()),
            app_protocol: flow.app.map(App::name),
            app_protocol_next: flow.app_next().map(App::name),
            tls_version: flow.tls_version(),
            handshake_client_us: details.and_then(|d| d.handshake_client_ns).map(microseconds),
            handshake_server_us: details.and_then(|d| d.handshake_server_ns).map(microseconds),
            rtt_us: details.and_then(|d| Stats::of(&d.rtt)),
            response_us: details.and_then(|d| Stats::of(&d.response)),
            client_retransmits: retransmits(client),
            server_retransmits: retransmits(1 - client),
            nat: flow.nat().map(|nat| Nat {
                server_ip: nat.server.map(|server| server.ip(flow.v6())),
                server_port: nat.server.and_then(|server| port(server.port)),
                client_ip: nat.client.map(|client| client.ip(flow.v6())),
                client_port: nat.client.and_then(|client| port(client.port)),
            }),
            client: flow.client_party().cloned().map(Ends),
            server: flow.server_party().cloned().map(Ends),
            ..Line::default()
        }
    }
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1e3
}

impl Stats {
    /// The summary; `None` if nothing was measured.
    fn of(stat: &Stat) -> Option<Stats> {
        (stat.count > 0).then(|| Stats {
            count: stat.count.into(),
            min: microseconds(stat.min_ns),
            mean: microseconds(stat.mean_ns().round() as u64),
            max: microseconds(stat.max_ns),
            last: microseconds(stat.last_ns),
        })
    }
}

/// A point in time with its known precision, in nanoseconds of the flow's clock.
#[derive(Clone, Copy)]
enum Time {
    Nanos(u64),
    Micros(u64),
    Millis(u64),
}

impl Time {
    /// When a flow starts and ends.
    fn of(flow: &Flow, tick_ns: u64) -> (Time, Time) {
        if tick_ns == 0 {
            return (Time::Nanos(flow.first_ns), Time::Nanos(flow.last_ns()));
        }
        let known = |(ns, precise)| if precise { Time::Micros(ns) } else { Time::Millis(ns) };
        (known(flow.start(tick_ns)), known(flow.end(tick_ns)))
    }

    fn ns(self) -> u64 {
        match self {
            Time::Nanos(ns) | Time::Micros(ns) | Time::Millis(ns) => ns,
        }
    }

    fn rfc3339(self, context: &LineContext) -> String {
        let at = UNIX_EPOCH + Duration::from_nanos(self.ns().saturating_add_signed(context.clock_offset_ns));
        match self {
            Time::Nanos(_) => humantime::format_rfc3339_nanos(at),
            Time::Micros(_) => humantime::format_rfc3339_micros(at),
            Time::Millis(_) => humantime::format_rfc3339_millis(at),
        }
        .to_string()
    }

    /// The time between both in seconds, with the precision that both have.
    fn seconds_to(self, end: Time) -> f64 {
        let ns = end.ns().saturating_sub(self.ns());
        match (self, end) {
            (Time::Nanos(_), Time::Nanos(_)) => ns as f64 / 1e9,
            (Time::Micros(_), Time::Micros(_)) => (ns / 1000) as f64 / 1e6,
            _ => (ns / 1_000_000) as f64 / 1e3,
        }
    }
}

fn flags(protocol: u8, sent: &Sent) -> Option<String> {
    if protocol != TCP || sent.packets == 0 {
        return None;
    }
    Some(tcp_flags(sent.tcp_flags))
}

/// TCP flags by name: `SYN|ACK`.
pub(crate) fn tcp_flags(flags: u8) -> String {
    let set = FLAGS.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}
