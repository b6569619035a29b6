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

/// The conversations of all IP packets.
fn conversations(file: &Path) -> Vec<Conversation> {
    let mut all = BTreeMap::<(String, [String; 2], String), Conversation>::new();
    for packet in dissect(file, &FIELDS) {
        let field = |name: &str| packet[name].clone();
        // "eth:ethertype:ip:icmp:ip:tcp" is ICMP.
        let protocols = field("frame.protocols");
        let Some(protocol) = protocols.split(':').find(|p| ["tcp", "udp", "icmp", "icmpv6"].contains(p)) else {
            continue;
        };
        let v6 = protocols.split(':').find(|p| ["ip", "ipv6"].contains(p)) == Some("ipv6");
        let [source, destination] = ["src", "dst"].map(|end| {
            let address = field(&format!("{}.{end}", if v6 { "ipv6" } else { "ip" }));
            match protocol {
                "tcp" | "udp" => format!("{address} {}", field(&format!("{protocol}.{end}port"))),
                _ => address,
            }
        });
        let sender = usize::from(source > destination);
        let ends = if sender == 0 { [source, destination] } else { [destination, source] };
        let which = field(if protocol == "tcp" { "tcp.stream" } else { "icmp.ident" });
        let (seconds, fraction) = packet["frame.time_epoch"].split_once('.').unwrap();
        let at_ns = seconds.parse::<u64>().unwrap() * 1_000_000_000 + fraction.parse::<u64>().unwrap();
        let conversation = all.entry((protocol.to_owned(), ends.clone(), which)).or_insert_with(|| Conversation {
            start_ns: at_ns,
            protocol: protocol.to_owned(),
            ends,
            ..Conversation::default()
        });
        conversation.end_ns = at_ns;
        conversation.packets[sender] += 1;
        conversation.bytes[sender] += field("frame.len").parse::<u64>().unwrap();
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
