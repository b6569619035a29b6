//! UDP: one datagram does not decide the protocol for good.

use serde_json::Value;

use super::flows;
use super::talks::{Talks, by_port, said};
use crate::needs_root;
use crate::replay::written::{CLIENT, S, SERVER, Written};
use crate::support::packet::UDP;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

const V1: u32 = 1;
const V2: u32 = 0x6b33_43cf;
const DRAFT_29: u32 = 0xff00_001d;
/// A reserved version, which no implementation knows (RFC 9000 15).
const GREASE: u32 = 0x1a2a_3a4a;

/// The first byte of each kind of packet.
fn first(version: u32, kind: u8) -> u8 {
    0xc3 | (if version == V2 { (kind + 1) & 3 } else { kind }) << 4
}

const INITIAL: u8 = 0;
const ZERO_RTT: u8 = 1;
const HANDSHAKE: u8 = 2;
const RETRY: u8 = 3;

/// A packet with a long header; its packet number and payload have `length` bytes.
fn long(version: u32, kind: u8, ids: [&[u8]; 2], length: usize) -> Vec<u8> {
    let mut bytes = vec![first(version, kind)];
    bytes.extend(version.to_be_bytes());
    for id in ids {
        bytes.push(id.len() as u8);
        bytes.extend(id);
    }
    if kind == INITIAL {
        bytes.push(0);
    }
    bytes.extend((length as u16 | 0x4000).to_be_bytes());
    bytes.resize(bytes.len() + length, 0x5a);
    bytes
}

fn padded(mut bytes: Vec<u8>, with: u8) -> Vec<u8> {
    bytes.resize(1200, with);
    bytes
}

const A: &[u8] = b"ABCDEFGH";
const B: &[u8] = b"abcdefgh";

fn initial(version: u32) -> Vec<u8> {
    padded(long(version, INITIAL, [A, B], 300), 0)
}

/// A packet with a short header, like the rest of a connection.
fn short() -> Vec<u8> {
    [&[0x45], A, &[0x5a; 40]].concat()
}

fn negotiation(ids: [&[u8]; 2], versions: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0xea, 0, 0, 0, 0];
    for id in ids {
        bytes.push(id.len() as u8);
        bytes.extend(id);
    }
    bytes.extend(versions.iter().flat_map(|v| v.to_be_bytes()));
    bytes
}

fn retry(version: u32) -> Vec<u8> {
    let mut bytes = vec![first(version, RETRY)];
    bytes.extend(version.to_be_bytes());
    bytes.extend([&[8][..], B, &[8], A].concat());
    bytes.resize(bytes.len() + 100, 0x77);
    bytes
}

/// RFC 8489.
fn stun() -> Vec<u8> {
    [&hex("0001 0000 2112a442")[..], &[7; 12]].concat()
}

/// A DTLS 1.2 ClientHello, as far as it matters.
fn dtls() -> Vec<u8> {
    [&hex("16 feff 0000 000000000000 0064 01 000058 0000 000000 000058 fefd")[..], &[9; 86]].concat()
}

/// RFC 9000 14.1: an Initial's datagram may be padded with anything.
#[test]
fn zeros_behind_an_initial_are_quic() {
    needs_root!();
    let flows = flows("quic_zero_padded.pcap");
    assert_eq!(by_port(&flows, 46100)["app_protocol"], "quic");
    assert_eq!(by_port(&flows, 46101)["app_protocol"], "quic");
}

#[test]
fn each_shape_of_an_initial_is_quic() {
    needs_root!();
    let mut talks = Talks::default();
    for version in [V1, V2, DRAFT_29] {
        let packet = |kind, length| long(version, kind, [A, B], length);
        let garbage = [packet(INITIAL, 300), vec![0x13; 900]].concat();
        for (name, datagram) in [
            ("padded with zeros", initial(version)),
            ("and with ones", padded(packet(INITIAL, 300), 0xff)),
            ("and with garbage", garbage),
            ("and 0-RTT", padded([packet(INITIAL, 300), packet(ZERO_RTT, 500)].concat(), 0)),
            ("with ids of 20 and of no bytes", padded(long(version, INITIAL, [&[1; 20], b""], 200), 0)),
            ("with padding inside", padded(packet(INITIAL, 1200 - 26), 0)),
        ] {
            let datagrams = [(CLIENT, datagram), (SERVER, short())];
            talks.add(443, &datagrams, "quic", format!("{version:x}: an Initial {name}"));
        }
        // A server's first datagram, without any from the client.
        for datagram in [
            [packet(INITIAL, 100), packet(HANDSHAKE, 1100)].concat(),
            padded([packet(INITIAL, 100), packet(HANDSHAKE, 600)].concat(), 0),
            packet(HANDSHAKE, 900),
            retry(version),
        ] {
            talks.add(443, &[(SERVER, datagram)], "quic", format!("{version:x} of a server"));
        }
    }
    talks.check();
}

/// A Retry, in either version, changes nothing in the result.
#[test]
fn retry_does_not_hide_quic() {
    needs_root!();
    for flow in flows("retry.pcap") {
        assert_eq!((&flow["app_protocol"], &flow["response_us"]), (&"quic".into(), &Value::Null), "{flow}");
    }
    for version in [V1, V2] {
        // Nothing that the client sends is recognised.
        let datagrams = [
            (CLIENT, short()),
            (SERVER, retry(version)),
            (CLIENT, short()),
            (SERVER, padded(long(version, INITIAL, [B, A], 90), 0)),
        ];
        assert_eq!(said([50000, 443], &datagrams)["app_protocol"], "quic");
    }
}

#[test]
fn version_negotiation_does_not_hide_quic() {
    needs_root!();
    let offered = [0x0a0a_0a0a, 0xfa7e_0001, 0xface_b002, V1];
    let mut talks = Talks::default();
    for (datagrams, name) in [
        (vec![(CLIENT, initial(GREASE)), (SERVER, negotiation([B, A], &offered)), (CLIENT, initial(V1))], "goes on"),
        (vec![(CLIENT, initial(GREASE)), (SERVER, negotiation([B, A], &offered))], "ends there"),
        (vec![(SERVER, negotiation([B, A], &[V2]))], "alone"),
        (vec![(SERVER, negotiation([&[7; 200], &[8; 180]], &offered))], "with ids of a future version"),
        (vec![(CLIENT, initial(GREASE)), (CLIENT, initial(V2))], "one way"),
    ] {
        talks.add(443, &datagrams, "quic", name.to_owned());
    }
    let late = [[0x0a0a_0a0a; 15].as_slice(), &[V1]].concat();
    talks.add(443, &[(SERVER, negotiation([B, A], &late))], "quic", "a known version late in the list".to_owned());
    // No known version, and bytes that only begin like it.
    for datagram in [negotiation([B, A], &[GREASE, 0xface_b002]), negotiation([b"", b""], &[1, 0, 0]), vec![0x80; 40]] {
        talks.add(443, &[(SERVER, datagram)], Value::Null, "no known version".to_owned());
    }
    talks.check();
}

/// Whatever a direction begins with, later datagrams can still be recognised.
#[test]
fn the_first_datagram_decides_nothing() {
    needs_root!();
    let query = hex("1234 0100 0001 0000 0000 0000 03777777 076578616d706c65 036f7267 00 0001 0001");
    let answer =
        [&hex("1234 8180 0001 0001 0000 0000")[..], &query[12..], &hex("c00c 0001 0001 00000e10 0004 c0000201")]
            .concat();
    let mut talks = Talks::default();
    for (name, before) in [("STUN", stun()), ("DTLS", dtls()), ("zeros", vec![0; 30]), ("one byte", vec![0xff])] {
        for times in [1, 2, 7] {
            let of = |sender, last: &[u8]| {
                let mut all = vec![(sender, before.clone()); times];
                all.push((sender, last.to_vec()));
                all
            };
            for (port, datagrams, app) in [
                (4433, of(CLIENT, &initial(V1)), "quic"),
                (4433, of(SERVER, &initial(V1)), "quic"),
                (53, of(CLIENT, &query), "dns"),
                (53, of(SERVER, &answer), "dns"),
            ] {
                talks.add(port, &datagrams, app, format!("{times} times {name}, {app} from {}", datagrams[times].0));
            }
        }
    }
    talks.check();
}

/// A stream of something else is not examined for ever: a protocol that starts after many datagrams is not recognised.
#[test]
fn examination_ends() {
    needs_root!();
    let mut datagrams = vec![(CLIENT, vec![0x80; 172]); 60];
    datagrams.push((CLIENT, initial(V1)));
    assert_eq!(said([50000, 5004], &datagrams)["app_protocol"], Value::Null);
}

fn name(labels: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        bytes.push(label.len() as u8);
        bytes.extend(*label);
    }
    bytes.push(0);
    bytes
}

fn message(flags: u16, counts: [u16; 4], rest: &[&[u8]]) -> Vec<u8> {
    let head: Vec<u8> = [0x1234, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect();
    [&head[..], &rest.concat()].concat()
}

fn asked(labels: &[&[u8]], kind: u16, class: u16) -> Vec<u8> {
    [name(labels), kind.to_be_bytes().to_vec(), class.to_be_bytes().to_vec()].concat()
}

fn record(owner: &[u8], kind: u16, class: u16, data: &[u8]) -> Vec<u8> {
    let head = [kind.to_be_bytes(), class.to_be_bytes(), [0, 0], [0, 60], (data.len() as u16).to_be_bytes()].concat();
    [owner, &head, data].concat()
}

const ZONE: [&[u8]; 2] = [b"example", b"org"];

/// Messages that the DNS detector must recognise, those of clients first.
fn messages() -> Vec<(&'static str, usize, Vec<u8>)> {
    let soa = asked(&ZONE, 6, 1);
    let www = asked(&[b"www", b"example", b"org"], 1, 1);
    let pointer = [0xc0, 12];
    let numbers = [&pointer[..], &pointer, &[0; 20]].concat();
    let opt = record(&[0], 41, 1232, b"\0\x0a\0\x08cookies!");
    let tsig = record(&name(&[b"key"]), 250, 255, &[9; 60]);
    let text = record(&pointer, 16, 1, b"\x05hello");
    let mut all = vec![
        ("NOTIFY", CLIENT, message(0x2400, [1, 0, 0, 0], &[&soa])),
        ("NOTIFY with a SOA", CLIENT, message(0x2400, [1, 1, 0, 0], &[&soa, &record(&pointer, 6, 1, &numbers)])),
        ("a signed NOTIFY", CLIENT, message(0x2400, [1, 0, 0, 1], &[&soa, &tsig])),
        ("UPDATE", CLIENT, message(0x2800, [1, 0, 1, 0], &[&soa, &record(b"\x03www\xc0\x0c", 1, 1, &[10, 0, 0, 1])])),
        ("UPDATE that deletes", CLIENT, message(0x2800, [1, 0, 1, 0], &[&soa, &record(&pointer, 255, 255, b"")])),
        (
            "UPDATE with prerequisites, signed",
            CLIENT,
            message(0x2800, [1, 1, 1, 1], &[&soa, &record(&pointer, 1, 254, b""), &text, &tsig]),
        ),
        ("UPDATE of nothing", CLIENT, message(0x2800, [1, 0, 0, 0], &[&soa])),
        ("STATUS", CLIENT, message(0x1000, [1, 0, 0, 0], &[&www])),
        ("a query with a cookie", CLIENT, message(0x0120, [1, 0, 0, 1], &[&www, &opt])),
        ("a query with a cookie and a key", CLIENT, message(0x0120, [1, 0, 0, 2], &[&www, &opt, &tsig])),
        ("IXFR", CLIENT, message(0, [1, 0, 1, 0], &[&asked(&ZONE, 251, 1), &record(&pointer, 6, 1, &numbers)])),
        ("the root", CLIENT, message(0x0010, [1, 0, 0, 1], &[&asked(&[], 2, 1), &opt])),
        ("underscores", CLIENT, message(0x0100, [1, 0, 0, 0], &[&asked(&[b"_443", b"_tcp", b"a"], 52, 1)])),
        ("bytes of any kind", CLIENT, message(0x0100, [1, 0, 0, 0], &[&asked(&[b"a b\x01\xff", b"\xc3\xa4"], 1, 1)])),
        ("answer to NOTIFY", SERVER, message(0xa400, [1, 0, 0, 0], &[&soa])),
        ("answer to UPDATE", SERVER, message(0xa805, [1, 0, 0, 0], &[&soa])),
        ("not known", SERVER, message(0x9004, [1, 0, 0, 0], &[&www])),
        ("truncated", SERVER, message(0x8380, [1, 0, 0, 0], &[&www])),
        ("truncated, and counted", SERVER, message(0x8380, [1, 9, 0, 0], &[&www])),
        ("truncated between records", SERVER, message(0x8380, [1, 9, 0, 0], &[&www, &text, &text])),
        ("no such name", SERVER, message(0x8183, [1, 0, 1, 1], &[&www, &record(&pointer, 6, 1, &numbers), &opt])),
        ("an answer of many bytes", SERVER, message(0x8180, [1, 12, 0, 0], &[&www, &text.repeat(12)])),
    ];
    for kind in [1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 35, 37, 39, 43, 44, 46, 47, 48, 52, 61, 64, 65, 99, 255, 256, 257]
    {
        all.push(("a type in use", CLIENT, message(0x0100, [1, 0, 0, 0], &[&asked(&[b"a"], kind, 1)])));
        let answer = record(&pointer, kind, 1, &[5; 40]);
        all.push(("and its answer", SERVER, message(0x8180, [1, 1, 0, 0], &[&asked(&[b"a"], kind, 1), &answer])));
    }
    all
}

#[test]
fn notify_and_update_are_dns() {
    needs_root!();
    for flow in flows("dns.pcap") {
        assert_eq!(flow["app_protocol"], "dns", "{flow}");
    }
    let mut talks = Talks::default();
    for (name, sender, bytes) in messages() {
        talks.add(53, &[(sender, bytes)], "dns", name.to_string());
    }
    talks.check();
}

/// As with a query: DNS answers each of them.
#[test]
fn unanswered_notify_and_update_time_out() {
    needs_root!();
    let mut capture = Written::default();
    for (port, (name, sender, bytes)) in (50000..).zip(messages().into_iter().take(8)) {
        assert_eq!(sender, CLIENT, "{name}");
        let header = [port, 53, 8 + bytes.len() as u16, 0].map(u16::to_be_bytes).concat();
        capture.packet(0, sender, UDP, &[header, bytes].concat());
    }
    // Time passes.
    capture.echo(300 * S, CLIENT, 1, 1);
    let flows = capture.replay();
    for (port, (name, ..)) in (50000..).zip(messages().into_iter().take(8)) {
        let flow = by_port(&flows, port);
        assert_eq!((&flow["status"], &flow["reason"]), (&"failed".into(), &"timeout".into()), "{name}: {flow}");
    }
}

#[test]
fn multicast_dns_is_dns() {
    needs_root!();
    let tcp: [&[u8]; 3] = [b"_ipp", b"_tcp", b"local"];
    let ipp = asked(&tcp, 12, 1);
    let wants = asked(&[b"host", b"local"], 255, 0x8001);
    let printer = record(&name(&tcp), 12, 1, &name(&[b"Printer of Ren\xc3\xa9", b"local"]));
    for (text, sender, bytes) in [
        ("a question", CLIENT, message(0, [1, 0, 0, 0], &[&ipp])),
        ("two questions", CLIENT, message(0, [2, 0, 0, 0], &[&ipp, b"\x04_udp\xc0\x16\0\x0c\0\x01"])),
        ("ten questions", CLIENT, message(0, [10, 0, 0, 0], &[&ipp.repeat(10)])),
        ("a question to answer directly", CLIENT, message(0, [1, 0, 0, 0], &[&asked(&tcp, 12, 0x8001)])),
        ("known answers, and more of them", CLIENT, message(0x0200, [1, 1, 0, 0], &[&ipp, &printer])),
        ("a probe", CLIENT, message(0, [1, 0, 1, 0], &[&wants, &record(&[0xc0, 12], 1, 1, &[10, 0, 0, 1])])),
        ("an answer", SERVER, message(0x8400, [0, 1, 0, 0], &[&printer])),
        ("two answers", SERVER, message(0x8400, [0, 2, 0, 0], &[&printer, &printer])),
    ] {
        assert_eq!(said([5353, 5353], &[(sender, bytes)])["app_protocol"], "dns", "{text}");
    }
    // LLMNR, RFC 4795.
    let host = message(0, [1, 0, 0, 0], &[&asked(&[b"host"], 28, 1)]);
    assert_eq!(said([50000, 5355], &[(CLIENT, host)])["app_protocol"], "dns");
}

/// Messages that differ from DNS in one respect each.
#[test]
fn messages_that_resemble_dns_are_not_dns() {
    needs_root!();
    let soa = asked(&ZONE, 6, 1);
    let netbios = [&[32][..], &b"FHEPFCEL".repeat(4), &[0, 0, 32, 0, 1]].concat();
    let address = record(&[0xc0, 12], 32, 1, &[0; 6]);
    let mut talks = Talks::default();
    for (name, bytes) in [
        ("NetBIOS registers a name", message(0x2910, [1, 0, 0, 1], &[&netbios, &address])),
        ("NetBIOS answers", message(0x8500, [0, 1, 0, 0], &[&netbios[..34], &record(b"", 32, 1, &[0; 6])])),
        ("an unassigned operation", message(0x3800, [1, 0, 0, 0], &[&soa])),
        ("stateful, over UDP", message(0x3000, [0, 0, 0, 0], &[b"\0\x01\0\x08", &[0; 8]])),
        ("UPDATE with more than it says", message(0x2800, [1, 0, 0, 0], &[&soa, b"more"])),
        (
            "UPDATE with a record that is too long",
            message(0x2800, [1, 0, 1, 0], &[&soa, &record(&[0], 1, 1, &[1; 4])[..14]]),
        ),
        ("NOTIFY that fails", message(0x2402, [1, 0, 0, 0], &[&soa])),
        ("two questions", message(0x0100, [2, 0, 0, 0], &[&soa, &soa])),
        ("a query with an answer", message(0x0100, [1, 1, 0, 0], &[&soa, &record(&[0xc0, 12], 1, 1, &[1; 4])])),
        ("an answer without anything", message(0x8180, [0, 0, 0, 0], &[])),
        ("a name that points at itself", message(0x8400, [0, 1, 0, 0], &[&record(&[0xc0, 12], 1, 1, &[1; 4])])),
        ("an unassigned type", message(0x0100, [1, 0, 0, 0], &[&asked(&ZONE, 0x2222, 1)])),
    ] {
        talks.add(53, &[(CLIENT, bytes)], Value::Null, name.to_string());
    }
    talks.check();
}
