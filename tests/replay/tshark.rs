//! Compares captures of real servers with tshark, conversation by conversation: packets, bytes, first and last packet,
//! to the byte and the nanosecond.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;

use super::{captures, nanoseconds, replay};
use crate::needs_root;
use crate::support::sh;

/// What both report about a conversation, with the ends in the order of their addresses and ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Conversation {
    start_ns: u64,
    end_ns: u64,
    protocol: String,
    ends: [String; 2],
    /// Packets and bytes that each end sent.
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

/// tshark's fields of each packet. Of fields that occur twice, as in a packet that an ICMP error quotes, the first
/// counts.
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

/// The protocol (empty if it is not IP), source and destination.
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

/// The relation of a segment to those captured before it in the same direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ChainPlace {
    /// Its bytes are new and follow all others.
    Next,
    /// The same bytes were captured before.
    Again,
    /// It fills a hole, more than a round trip after the first segment behind the hole: that is the time that a
    /// retransmission takes.
    Late,
    /// It fills a hole sooner: another segment has overtaken it.
    Overtaken,
    /// The same, but another hole has opened since. The programs remember one hole in each direction, so they take this
    /// for a retransmission.
    OvertakenTwice,
}

/// The segments of a TCP stream, and tshark's analysis of them.
#[derive(Debug, Default)]
struct Stream {
    /// tshark's initial round-trip time, in nanoseconds.
    initial_rtt: Option<u64>,
    /// For each end, the lower address first: sequence number, length and time of all segments, and the times at which
    /// holes opened.
    segments: [Vec<(u32, u32, u64)>; 2],
    holes: [Vec<u64>; 2],
    /// For each segment of each end: whether tshark calls it a retransmission, and what it really is.
    places: [Vec<(bool, ChainPlace)>; 2],
}

impl Stream {
    fn add(&mut self, packet: &HashMap<String, String>) {
        let number = |field: &str| packet[field].parse::<u32>().unwrap();
        // tshark repeats it with each packet from the handshake on.
        if let Some((seconds, fraction)) = packet["tcp.analysis.initial_rtt"].split_once('.') {
            self.initial_rtt = Some(seconds.parse::<u64>().unwrap() * 1_000_000_000 + fraction.parse::<u64>().unwrap());
        }
        let length = number("tcp.len") + number("tcp.flags.syn") + number("tcp.flags.fin");
        if length == 0 {
            return;
        }
        let [source, destination] = ends(packet).1;
        let end = usize::from(source > destination);
        let (seq, at) = (number("tcp.seq_raw"), at_ns(packet));
        let place = self.place(end, seq, at);
        self.places[end].push((!packet["tcp.analysis.retransmission"].is_empty(), place));
        self.segments[end].push((seq, length, at));
    }

    fn place(&mut self, end: usize, seq: u32, at: u64) -> ChainPlace {
        let (segments, holes) = (&self.segments[end], &mut self.holes[end]);
        if segments.iter().any(|&(other, length, _)| seq.wrapping_sub(other) < length) {
            return ChainPlace::Again;
        }
        let Some(overtaken_at) = segments.iter().find(|s| (s.0.wrapping_sub(seq) as i32) > 0).map(|s| s.2) else {
            if segments.iter().all(|&(other, length, _)| (seq.wrapping_sub(other.wrapping_add(length)) as i32) > 0) {
                holes.push(at);
            }
            return ChainPlace::Next;
        };
        if at - overtaken_at > self.initial_rtt.unwrap_or(3_000_000) {
            ChainPlace::Late
        } else if holes.iter().any(|&opened| opened > overtaken_at) {
            ChainPlace::OvertakenTwice
        } else {
            ChainPlace::Overtaken
        }
    }
}

/// The streams, by the conversation's start, which identifies them.
fn streams(file: &Path) -> BTreeMap<u64, Stream> {
    const ANALYSIS: [&str; 6] = [
        "tcp.seq_raw",
        "tcp.len",
        "tcp.flags.syn",
        "tcp.flags.fin",
        "tcp.analysis.initial_rtt",
        "tcp.analysis.retransmission",
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

/// Both parts of the handshake together are tshark's initial RTT, to the nanosecond, if it has one; if the handshake
/// was not seen, or not answered, there is none.
#[test]
fn handshakes_agree_with_the_initial_rtt_of_tshark() {
    needs_root!();
    let mut compared = 0;
    for file in captures() {
        let streams = streams(&file);
        for flow in replay(&file).iter().filter(|flow| flow["protocol"] == "tcp") {
            let part =
                |side: &str| flow[format!("handshake_{side}_us")].as_f64().map(|us| (us * 1000.0).round() as u64);
            let whole = part("client").zip(part("server")).map(|(client, server)| client + server);
            let expected = streams[&nanoseconds(&flow["start"])].initial_rtt;
            // tshark also measures up to a RST; a refused connection has no handshake here.
            let expected = expected.filter(|_| flow["reason"] != "refused");
            assert_eq!(whole, expected, "{}: {flow}", file.display());
            compared += u32::from(whole.is_some());
        }
    }
    assert!(compared >= 15, "{compared} handshakes");
}

/// Retransmitted segments of each end. If tshark disagrees, the numbers and times of the segments show who is right;
/// there are four kinds of these differences, and no others.
#[test]
fn retransmissions_agree_with_tshark() {
    needs_root!();
    let mut kinds = BTreeMap::<(bool, ChainPlace), u32>::new();
    for file in captures() {
        let streams = streams(&file);
        for flow in replay(&file).iter().filter(|flow| flow["protocol"] == "tcp") {
            let mut sides = ["client", "server"].map(|side| {
                let field = |name: &str| &flow[format!("{side}_{name}")];
                let end = format!("{} {}", field("ip").as_str().unwrap(), field("port"));
                (end, field("retransmits").as_u64().unwrap_or(0) as usize)
            });
            sides.sort();
            let places = &streams[&nanoseconds(&flow["start"])].places;
            let again = |(_, place): &&(bool, ChainPlace)| {
                matches!(place, ChainPlace::Again | ChainPlace::Late | ChainPlace::OvertakenTwice)
            };
            let expected = places.each_ref().map(|places| places.iter().filter(again).count());
            assert_eq!(sides.map(|side| side.1), expected, "{}: {places:?}", file.display());
            places.iter().flatten().for_each(|kind| *kinds.entry(*kind).or_default() += 1);
        }
    }
    let mut count = |said, place| kinds.remove(&(said, place)).unwrap_or(0);
    // Both agree.
    assert!(count(true, ChainPlace::Again) + count(true, ChainPlace::Late) >= 10);
    assert!(count(false, ChainPlace::Next) > 500 && count(false, ChainPlace::Overtaken) > 0);
    // "Out of order" for tshark, which uses the time since the latest new segment: in a busy stream, that is always
    // short.
    assert!(count(false, ChainPlace::Again) > 0 && count(false, ChainPlace::Late) > 0);
    // "Fast retransmission" for tshark, which looks for duplicate ACKs: these also follow when one segment overtakes
    // others.
    assert!(count(true, ChainPlace::Overtaken) > 0);
    // Two holes at once: the programs are wrong, and tshark may be, too.
    count(true, ChainPlace::OvertakenTwice);
    count(false, ChainPlace::OvertakenTwice);
    assert!(kinds.is_empty(), "differences of other kinds: {kinds:?}");
}
