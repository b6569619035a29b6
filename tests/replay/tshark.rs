//! Captures of real servers, conversation by conversation as tshark counts them: packets, bytes, first and last packet, to the
//! byte and the nanosecond.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;

use super::{captures, nanoseconds, replay};
use crate::needs_root;
use crate::support::sh;

/// What both say of a conversation; the ends in the order of their addresses and ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Conversation {
    start_ns: u64,
    end_ns: u64,
    protocol: String,
    ends: [String; 2],
    /// Sent by each end.
    packets: [u64; 2],
    bytes: [u64; 2],
}

const FIELDS: [&str; 13] = [
    "frame.time_epoch",
    "frame.len",
    "frame.protocols",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "tcp.stream",
    "icmp.ident",
];

/// What tshark says of each packet, by field. Of fields that come twice, as in a packet that an ICMP error quotes, the first.
fn dissect(file: &Path, fields: &[&str]) -> Vec<HashMap<String, String>> {
    let wanted: String = fields.iter().map(|field| format!(" -e {field}")).collect();
    let out = sh(&format!("tshark -n -r {} -T fields -E occurrence=f{wanted} 2>/dev/null", file.display()));
    let row = |line: &str| -> HashMap<String, String> {
        fields.iter().map(|f| (*f).to_owned()).zip(line.split('\t').map(str::to_owned)).collect()
    };
    out.lines().map(row).collect()
}

fn at_ns(packet: &HashMap<String, String>) -> u64 {
    let (seconds, fraction) = packet["frame.time_epoch"].split_once('.').unwrap();
    seconds.parse::<u64>().unwrap() * 1_000_000_000 + fraction.parse::<u64>().unwrap()
}

/// The protocol, empty for what is not IP, source and destination.
fn ends(packet: &HashMap<String, String>) -> (String, [String; 2]) {
    // "eth:ethertype:ip:icmp:ip:tcp" is ICMP.
    let mut protocols = packet["frame.protocols"].split(':');
    let v6 = protocols.clone().find(|p| ["ip", "ipv6"].contains(p)) == Some("ipv6");
    let protocol = protocols.find(|p| ["tcp", "udp", "icmp", "icmpv6"].contains(p)).unwrap_or_default();
    let ends = ["src", "dst"].map(|end| {
        let address = &packet[&format!("{}.{end}", if v6 { "ipv6" } else { "ip" })];
        match protocol {
            "tcp" | "udp" => format!("{address} {}", packet[&format!("{protocol}.{end}port")]),
            _ => address.clone(),
        }
    });
    (protocol.to_owned(), ends)
}

/// The conversations of all IP packets.
fn conversations(file: &Path) -> Vec<Conversation> {
    let mut all = BTreeMap::<(String, [String; 2], String), Conversation>::new();
    for packet in dissect(file, &FIELDS) {
        let (protocol, [source, destination]) = ends(&packet);
        if protocol.is_empty() {
            continue;
        }
        let sender = usize::from(source > destination);
        let ends = if sender == 0 { [source, destination] } else { [destination, source] };
        let which = packet[if protocol == "tcp" { "tcp.stream" } else { "icmp.ident" }].clone();
        let at_ns = at_ns(&packet);
        let conversation = all.entry((protocol.clone(), ends.clone(), which)).or_insert_with(|| Conversation {
            start_ns: at_ns,
            protocol,
            ends,
            ..Conversation::default()
        });
        conversation.end_ns = at_ns;
        conversation.packets[sender] += 1;
        conversation.bytes[sender] += packet["frame.len"].parse::<u64>().unwrap();
    }
    let mut all: Vec<_> = all.into_values().collect();
    all.sort();
    all
}

/// A printed flow as a conversation.
fn conversation(flow: &Value) -> Conversation {
    let mut sides = ["client", "server"].map(|side| {
        let field = |name: &str| &flow[format!("{side}_{name}")];
        let address = field("ip").as_str().unwrap();
        let end = field("port").as_u64().map_or(address.to_owned(), |port| format!("{address} {port}"));
        (end, field("packets").as_u64().unwrap(), field("bytes").as_u64().unwrap())
    });
    sides.sort();
    let [a, b] = sides;
    Conversation {
        start_ns: nanoseconds(&flow["start"]),
        end_ns: nanoseconds(&flow["end"]),
        protocol: flow["protocol"].as_str().unwrap().to_owned(),
        ends: [a.0, b.0],
        packets: [a.1, b.1],
        bytes: [a.2, b.2],
    }
}

#[test]
fn flows_are_the_conversations_of_tshark() {
    needs_root!();
    let mut compared = 0;
    for file in captures() {
        let expected = conversations(&file);
        let mut flows: Vec<_> = replay(&file).iter().map(conversation).collect();
        flows.sort();
        assert_eq!(flows, expected, "{}", file.display());
        compared += flows.len();
    }
    assert!(compared >= 40, "{compared} conversations");
}

/// What tshark's analysis says of a TCP stream; counts by end, the lower address first.
#[derive(Debug, Default)]
struct Stream {
    /// Nanoseconds.
    initial_rtt: Option<u64>,
    /// Called retransmissions, the fast and the spurious ones too.
    retransmissions: [u64; 2],
    /// Called out of order, though the same bytes were captured before.
    repeated: [u64; 2],
    /// Called out of order, though it took more than a round trip from the first segment behind them.
    late: [u64; 2],
    /// Called out of order: all others.
    overtaken: [u64; 2],
    /// Sequence numbers captured, and when: of each end.
    segments: [Vec<(u32, u32, u64)>; 2],
}

impl Stream {
    fn add(&mut self, packet: &HashMap<String, String>) {
        let number = |field: &str| packet[field].parse::<u32>().unwrap();
        let is = |field: &str| !packet[&format!("tcp.analysis.{field}")].is_empty();
        let [source, destination] = ends(packet).1;
        let end = usize::from(source > destination);
        let (seq, at) = (number("tcp.seq_raw"), at_ns(packet));
        // Said again with each packet from the handshake on.
        if let Some((seconds, fraction)) = packet["tcp.analysis.initial_rtt"].split_once('.') {
            self.initial_rtt = Some(seconds.parse::<u64>().unwrap() * 1_000_000_000 + fraction.parse::<u64>().unwrap());
        }
        let before = |&&(other, length, _): &&(u32, u32, u64)| seq.wrapping_sub(other) < length;
        let behind = |&&(other, _, _): &&(u32, u32, u64)| (other.wrapping_sub(seq) as i32) > 0;
        let segments = &self.segments[end];
        if is("retransmission") {
            self.retransmissions[end] += 1;
        } else if is("out_of_order") {
            let overtaken_at = segments.iter().find(behind).map_or(at, |other| other.2);
            let kind = if segments.iter().any(|other| before(&other)) {
                &mut self.repeated
            } else if at - overtaken_at > self.initial_rtt.unwrap_or(3_000_000) {
                &mut self.late
            } else {
                &mut self.overtaken
            };
            kind[end] += 1;
        }
        self.segments[end].push((seq, number("tcp.len"), at));
    }
}

/// By the conversation's start, which tells streams apart.
fn streams(file: &Path) -> BTreeMap<u64, Stream> {
    const ANALYSIS: [&str; 5] = [
        "tcp.seq_raw",
        "tcp.len",
        "tcp.analysis.initial_rtt",
        "tcp.analysis.retransmission",
        "tcp.analysis.out_of_order",
    ];
    let mut starts = HashMap::new();
    let mut streams = BTreeMap::<u64, Stream>::new();
    for packet in dissect(file, &[&FIELDS[..], &ANALYSIS].concat()) {
        if ends(&packet).0 == "tcp" {
            let start = *starts.entry(packet["tcp.stream"].clone()).or_insert_with(|| at_ns(&packet));
            streams.entry(start).or_default().add(&packet);
        }
    }
    streams
}

/// Both parts of the handshake together are tshark's initial RTT, to the nanosecond, wherever it has one; where the handshake
/// was not seen, or not answered, there is none.
#[test]
fn handshakes_are_the_initial_rtt_of_tshark() {
    needs_root!();
    let mut compared = 0;
    for file in captures() {
        let streams = streams(&file);
        for flow in replay(&file).iter().filter(|flow| flow["protocol"] == "tcp") {
            let part =
                |side: &str| flow[format!("handshake_{side}_us")].as_f64().map(|us| (us * 1000.0).round() as u64);
            let whole = part("client").zip(part("server")).map(|(client, server)| client + server);
            let expected = streams[&nanoseconds(&flow["start"])].initial_rtt;
            // tshark measures up to the RST too; a connection that is refused has no handshake here.
            let expected = expected.filter(|_| flow["reason"] != "refused");
            assert_eq!(whole, expected, "{}: {flow}", file.display());
            compared += u32::from(whole.is_some());
        }
    }
    assert!(compared >= 15, "{compared} handshakes");
}

/// Segments sent again, by each end: all that tshark calls so, and some that it calls out of order. It looks at the time since
/// the latest new segment, so that in a busy stream nearly all that fills a hole is "out of order". Two kinds of these are
/// retransmissions: bytes that were captured before, whatever the time; and bytes that come more than a round trip after the
/// first segment that was sent behind them, which is the time that asking for them takes.
#[test]
fn retransmissions_are_those_of_tshark() {
    needs_root!();
    let (mut same, mut repeated, mut late) = (0, 0, 0);
    for file in captures() {
        let streams = streams(&file);
        for flow in replay(&file).iter().filter(|flow| flow["protocol"] == "tcp") {
            let mut sides = ["client", "server"].map(|side| {
                let field = |name: &str| &flow[format!("{side}_{name}")];
                let end = format!("{} {}", field("ip").as_str().unwrap(), field("port"));
                (end, field("retransmits").as_u64().unwrap_or(0))
            });
            sides.sort();
            let stream = &streams[&nanoseconds(&flow["start"])];
            let expected = [0, 1].map(|end| stream.retransmissions[end] + stream.repeated[end] + stream.late[end]);
            assert_eq!(sides.map(|side| side.1), expected, "{}: {flow}", file.display());
            same += stream.retransmissions.iter().sum::<u64>();
            repeated += stream.repeated.iter().sum::<u64>();
            late += stream.late.iter().sum::<u64>();
        }
    }
    assert!(same >= 10 && repeated > 0 && late > 0, "{same} the same, {repeated} repeated, {late} late");
}
