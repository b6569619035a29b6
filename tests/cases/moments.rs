//! Points in time are not confused: responses, round trips, ends.

use std::collections::BTreeMap;

use serde_json::Value;

use super::flows;
use crate::needs_root;
use crate::replay::written::{CLIENT, Connection, MS, S, SERVER, Written};
use crate::support::packet::{ACK, FIN, PSH, SYN, TCP};

/// A connection whose payload matters, between 10.0.0.1:40000 and 10.0.0.2:50051.
struct Speaking {
    capture: Written,
    next: [u32; 2],
    /// The client's port.
    port: u16,
    /// The time at which it begins.
    start: u64,
}

impl Speaking {
    /// A connection whose handshake takes `ns`, half on either side of where it is seen.
    fn open(ns: u64) -> Speaking {
        Speaking::open_in(Written::default(), 40000, 0, ns)
    }

    /// Another connection in a capture, which began `start` nanoseconds earlier.
    fn open_in(capture: Written, port: u16, start: u64, ns: u64) -> Speaking {
        let mut talk = Speaking { capture, next: [1000, 5000], port, start };
        talk.say(0, CLIENT, SYN, b"");
        talk.say(ns, SERVER, SYN | ACK, b"");
        talk.say(2 * ns, CLIENT, ACK, b"");
        talk
    }

    /// A segment that acknowledges `acknowledges`.
    fn segment(&mut self, at: u64, sender: usize, flags: u8, sequence: u32, acknowledges: u32, payload: &[u8]) {
        let ports = if sender == CLIENT { [self.port, 50051] } else { [50051, self.port] };
        let numbers = [sequence, if flags & ACK == 0 { 0 } else { acknowledges }].map(u32::to_be_bytes).concat();
        let rest = [0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
        let header = [&ports.map(u16::to_be_bytes).concat()[..], &numbers, &rest].concat();
        self.capture.packet(self.start + at, sender, TCP, &[header, payload.to_vec()].concat());
        let counted = u32::from(flags & FIN != 0) + u32::from(flags & SYN != 0);
        self.next[sender] = sequence + payload.len() as u32 + counted;
    }

    /// The next segment, which acknowledges everything so far.
    fn say(&mut self, at: u64, sender: usize, flags: u8, payload: &[u8]) {
        self.segment(at, sender, flags, self.next[sender], self.next[1 - sender], payload);
    }

    fn push(&mut self, at: u64, sender: usize, payload: &[u8]) {
        self.say(at, sender, ACK | PSH, payload);
    }

    fn flow(&self) -> Value {
        let mut flows = self.capture.replay();
        assert_eq!(flows.len(), 1, "{flows:#?}");
        flows.remove(0)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Forty calls, each of which took at least 50 ms.
#[test]
fn control_frames_are_no_responses() {
    needs_root!();
    let flows = flows("g.pcap");
    let times = &flows[0]["response_us"];
    assert_eq!(times["count"], 40, "{times}");
    assert!(times["min"].as_f64().unwrap() >= 50_000.0, "{times}");
    assert!(times["max"].as_f64().unwrap() < 57_000.0, "{times}");
}

/// Control frames of either side before, between and after calls, in segments of their own or with other frames.
#[test]
fn control_frames_are_no_turns() {
    needs_root!();
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let controls = [
        ("SETTINGS", settings.clone()),
        ("their acknowledgement", frame(4, 1, 0, b"")),
        ("PING", frame(6, 0, 0, &[7; 8])),
        ("its answer", frame(6, 1, 0, &[7; 8])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 1, 0])),
        ("one of a stream", frame(8, 0, 1, &[0, 0, 1, 0])),
        ("PRIORITY", frame(2, 0, 3, &[0, 0, 0, 0, 15])),
        ("RST_STREAM", frame(3, 0, 1, &[0, 0, 0, 8])),
        ("GOAWAY", frame(7, 0, 0, b"\0\0\0\x01\0\0\0\0bye")),
        ("PRIORITY_UPDATE", frame(16, 0, 0, b"\0\0\0\x01u=1")),
        ("two of them", [frame(8, 0, 0, &[0, 0, 1, 0]), frame(6, 0, 0, &[7; 8])].concat()),
    ];
    // :method GET, :scheme http, :path /; :status 200.
    let (request, answer) = (frame(1, 5, 1, &[0x82, 0x86, 0x84]), frame(1, 4, 1, &[0x88]));
    // All are in one capture, because loading the programs for a replay takes longer than all these packets.
    let (mut capture, mut ports) = (Written::default(), BTreeMap::new());
    for (name, control) in controls {
        for first in [CLIENT, SERVER] {
            let (port, start) = (40_000 + ports.len() as u16, ports.len() as u64 * S);
            ports.insert(port, format!("{name}, {first} first"));
            let mut talk = Speaking::open_in(capture, port, start, MS / 100);
            let mut at = MS;
            // A server that has accepted may speak first.
            let hello = [[PREFACE, &settings].concat(), settings.clone()];
            for sender in [first, 1 - first] {
                talk.push(at, sender, &hello[sender]);
                at += MS / 10;
            }
            for _ in 0..3 {
                talk.push(at, CLIENT, &control);
                talk.push(at + MS, SERVER, &control);
                talk.push(at + 2 * MS, CLIENT, &request);
                talk.push(at + 3 * MS, SERVER, &control);
                talk.push(at + 4 * MS, CLIENT, &control);
                talk.push(at + 52 * MS, SERVER, &[&control[..], &answer, &frame(0, 1, 1, &[9; 50])].concat());
                talk.push(at + 53 * MS, CLIENT, &control);
                at += 100 * MS;
            }
            capture = talk.capture;
        }
    }
    let flows = capture.replay();
    assert_eq!(flows.len(), ports.len(), "{flows:#?}");
    for (port, name) in ports {
        let flow = flows.iter().find(|flow| flow["client_port"] == port).unwrap();
        let times = &flow["response_us"];
        assert_eq!(
            (&times["count"], &times["min"], &times["max"]),
            (&3.into(), &50_000.0.into(), &50_000.0.into()),
            "{name}"
        );
        assert_eq!(flow["app_protocol"], "http2", "{name}");
    }
}

/// DATA looks like frames only if it is made to, and then it does not end where the segment ends.
#[test]
fn data_of_http2_are_turns() {
    needs_root!();
    let mut talk = Speaking::open(MS / 100);
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    talk.push(MS, CLIENT, &[PREFACE, &settings, &frame(1, 4, 1, &[0x83, 0x86, 0x84])].concat());
    talk.push(2 * MS, SERVER, &settings);
    // A request in two segments, of which the second begins within the data; the answer likewise.
    let body = frame(0, 1, 1, &frame(6, 0, 0, &[7; 8]).repeat(20));
    talk.say(10 * MS, CLIENT, ACK, &body[..100]);
    talk.push(12 * MS, CLIENT, &body[100..]);
    let answer = [frame(1, 4, 1, &[0x88]), body.clone()].concat();
    talk.say(42 * MS, SERVER, ACK, &answer[..100]);
    talk.push(43 * MS, SERVER, &answer[100..]);
    let flow = talk.flow();
    let times = &flow["response_us"];
    assert_eq!((&times["count"], &times["min"]), (&1.into(), &30_000.0.into()), "{flow}");
}

/// The payload of other protocols may look like control frames.
#[test]
fn payload_that_looks_like_control_frames_is_a_turn() {
    needs_root!();
    let mut talk = Speaking::open(MS / 100);
    talk.push(MS, CLIENT, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    talk.push(21 * MS, SERVER, b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
    talk.push(30 * MS, CLIENT, &frame(6, 0, 0, &[7; 8]));
    talk.push(35 * MS, SERVER, &frame(6, 1, 0, &[7; 8]));
    let times = &talk.flow()["response_us"];
    assert_eq!((&times["count"], &times["min"], &times["max"]), (&2.into(), &5_000.0.into(), &20_000.0.into()));
}

/// An ACK that waited 39 ms for the next segment; the link's round trip is 0.03 ms.
#[test]
fn a_delayed_ack_is_no_round_trip() {
    needs_root!();
    let flows = flows("first56.pcap");
    let times = &flows[0]["rtt_us"];
    assert!(times["max"].as_f64().unwrap() < 200.0 && times["count"].as_u64().unwrap() >= 10, "{times}");
}

/// A server that takes 15 ms for each answer, which carries its ACK.
#[test]
fn an_answer_is_no_round_trip() {
    needs_root!();
    let flows = flows("rtt.pcap");
    let (rtt, response) = (&flows[0]["rtt_us"], &flows[0]["response_us"]);
    assert!(rtt["max"].as_f64().unwrap() < 200.0 && rtt["count"].as_u64().unwrap() >= 50, "{rtt}");
    assert_eq!(response["count"], 100);
    assert!((15_000.0..16_000.0).contains(&response["mean"].as_f64().unwrap()), "{response}");
}

const FULL: &[u8] = &[0x55; 1448];

/// Segments and their ACKs: only a segment that the other end answers at once yields a round trip.
#[test]
fn the_wait_of_an_ack_is_not_in_a_round_trip() {
    needs_root!();
    let times = |talk: &Speaking| talk.flow()["rtt_us"].clone();
    let us = |ns: u64| Value::from(ns as f64 / 1e3);
    for rtt in [30_000, 2 * MS, 25 * MS] {
        let opened = || (Speaking::open(rtt), 1000 * MS);
        // The ACK waits for the next small segment, 10 to 39 ms later, or for a FIN, or for two of them.
        for wait in [10 * MS, 39 * MS] {
            let (mut talk, at) = opened();
            talk.push(at, CLIENT, b"one");
            talk.push(at + wait, CLIENT, b"two");
            talk.say(at + wait + rtt, SERVER, ACK, b"");
            assert_eq!((&times(&talk)["count"], &times(&talk)["max"]), (&1.into(), &us(rtt)), "{rtt} {wait}");
            let (mut talk, at) = opened();
            talk.push(at, CLIENT, b"one");
            talk.say(at + wait, CLIENT, ACK | FIN, b"");
            talk.say(at + wait + rtt, SERVER, ACK, b"");
            assert_eq!((&times(&talk)["count"], &times(&talk)["max"]), (&1.into(), &us(rtt)), "{rtt} {wait}");
            let (mut talk, at) = opened();
            talk.push(at, CLIENT, b"one");
            talk.push(at + wait / 2, CLIENT, b"two");
            talk.push(at + wait, CLIENT, b"three");
            talk.say(at + wait + rtt, SERVER, ACK, b"");
            assert_eq!((&times(&talk)["count"], &times(&talk)["max"]), (&1.into(), &us(rtt)), "{rtt} {wait}");
            // It waits for the answer.
            let (mut talk, at) = opened();
            talk.push(at, CLIENT, b"what");
            talk.push(at + wait + rtt, SERVER, b"that");
            assert_eq!(times(&talk), Value::Null, "{rtt} {wait}");
        }
        // It waits for its timer, because nothing comes.
        let (mut talk, at) = opened();
        talk.push(at, CLIENT, b"one");
        talk.say(at + 40 * MS + rtt, SERVER, ACK, b"");
        assert_eq!(times(&talk), Value::Null, "{rtt}");
        // An immediate answer, whose ACK does not wait.
        let (mut talk, at) = opened();
        talk.push(at, CLIENT, b"what");
        talk.push(at + rtt + 20_000, SERVER, b"that");
        assert_eq!(times(&talk)["max"], us(rtt + 20_000));
    }
}

/// The path itself gets longer: two full segments are acknowledged at once, which shows it.
#[test]
fn a_path_that_gets_longer_is_measured() {
    needs_root!();
    for rtt in [100 * MS, 400 * MS] {
        let mut talk = Speaking::open(30_000);
        let mut at = S;
        for n in 0..5 {
            talk.say(at, CLIENT, ACK, FULL);
            if n % 2 == 0 {
                talk.say(at + 10_000, CLIENT, ACK, FULL);
            }
            talk.push(at + 20_000, CLIENT, FULL);
            talk.say(at + 20_000 + rtt, SERVER, ACK, b"");
            at += S;
        }
        let times = &talk.flow()["rtt_us"];
        assert_eq!((&times["count"], &times["min"]), (&5.into(), &(rtt as f64 / 1e3).into()), "{times}");
    }
}

/// RFC 7413: a SYN with a request.
#[test]
fn a_request_in_a_syn_has_a_response_time() {
    needs_root!();
    // How much the SYN-ACK acknowledges, how much of the request is repeated, and the response time from then on.
    for (taken, again, ns) in [(4, None, 40 * MS), (0, Some(10 * MS), 30 * MS), (0, Some(0), 40 * MS)] {
        let mut talk = Speaking { capture: Written::default(), next: [1000, 5000], port: 40_000, start: 0 };
        talk.segment(0, CLIENT, SYN, 1000, 0, b"what");
        talk.segment(MS, SERVER, SYN | ACK, 5000, 1001 + taken, b"");
        let mut asked = 0;
        if let Some(later) = again {
            asked = 2 * MS + later;
            talk.segment(asked, CLIENT, ACK | PSH, 1001, 5001, b"what");
        } else {
            talk.segment(2 * MS, CLIENT, ACK, 1005, 5001, b"");
        }
        talk.segment(asked + ns, SERVER, ACK | PSH, 5001, 1005, b"that");
        talk.segment(asked + ns + MS, CLIENT, ACK | PSH, 1005, 5005, b"more");
        talk.segment(asked + ns + 8 * MS, SERVER, ACK | PSH, 5005, 1009, b"done");
        let flow = talk.flow();
        let times = &flow["response_us"];
        let (min, max) = (7_000.0, ns as f64 / 1e3);
        assert_eq!((&times["count"], &times["min"], &times["max"]), (&2.into(), &min.into(), &max.into()), "{flow}");
        assert_eq!(flow["handshake_server_us"], 1000.0);
    }
    // The server answers before the client has acknowledged anything.
    let mut talk = Speaking { capture: Written::default(), next: [1000, 5000], port: 40_000, start: 0 };
    talk.segment(0, CLIENT, SYN, 1000, 0, b"what");
    talk.segment(MS, SERVER, SYN | ACK, 5000, 1005, b"");
    talk.segment(6 * MS, SERVER, ACK | PSH, 5001, 1005, b"that");
    talk.segment(7 * MS, CLIENT, ACK, 1005, 5005, b"");
    let times = &talk.flow()["response_us"];
    assert_eq!((&times["count"], &times["max"]), (&1.into(), &6_000.0.into()));
}

/// A client without a cookie requests one with a SYN that has no data: nothing else changes.
#[test]
fn a_syn_without_data_is_no_request() {
    needs_root!();
    let (mut capture, mut c) = (Written::default(), Connection::new(40000));
    capture.handshake(0, &mut c, MS, MS);
    capture.tcp(10 * MS, SERVER, &mut c, ACK | PSH, 100);
    capture.tcp(11 * MS, CLIENT, &mut c, ACK, 0);
    assert_eq!(capture.replay()[0]["response_us"], Value::Null);
}

/// Healthy sessions of psycopg and libpq over TLS, which end with an alert that a RST may answer.
#[test]
fn a_rst_after_the_closing_alert_cuts_nothing_off() {
    needs_root!();
    for (input, sessions) in [("two.pcap", 2), ("pg.pcap", 40)] {
        let flows = flows(input);
        assert_eq!(flows.len(), sessions);
        for flow in &flows {
            assert_eq!(
                (flow["status"].as_str(), flow["app_protocol_next"].as_str()),
                (Some("ok"), Some("tls")),
                "{flow}"
            );
        }
        let resets = flows.iter().filter(|flow| flow["reset_by"].is_string()).count();
        assert!(resets >= sessions / 2, "{resets} were closed by a RST");
    }
}
