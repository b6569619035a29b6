//! Application protocols of payload: bytes of each protocol, in one piece and in many, and bytes that only look
//! similar.

mod changes;
mod formats;
mod fuzz;
mod implementations;
mod lookalikes;
mod oracle;
mod records;
mod samples;
mod wire;

use netmon::bpf::App;

use self::lookalikes::lookalikes;
use self::samples::{Sample, samples};
use crate::needs_root;
use crate::support::detect::{CONTINUES, Detector, EITHER, MIDSTREAM, Payload, Verdict};
use crate::support::packet::{TCP, UDP};

/// The number in enum nm_app: in the order of `App::all`, from 1 on.
fn number(app: App) -> u8 {
    // It is not detected by itself.
    if app == App::Websocket { 24 } else { 1 + App::all().iter().position(|a| *a == app).unwrap() as u8 }
}

/// A verdict as nm_detect returns it.
fn verdict(app: App, version: u32) -> Verdict {
    Verdict(u32::from(number(app)) | version << 8)
}

/// Hands out connections without any payload yet.
struct Talk {
    detector: Detector,
    flow: u64,
}

impl Talk {
    fn new() -> Talk {
        Talk { detector: Detector::load(u32::MAX), flow: 0 }
    }

    /// The next connection.
    fn next(&mut self) {
        self.flow += 1;
    }

    fn payload(&self, sample: &Sample, offset: usize) -> Payload {
        let (client, server) = (40000, sample.port);
        let (sport, dport) = if sample.client { (client, server) } else { (server, client) };
        Payload {
            flow: self.flow.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            offset: offset as u32,
            sport,
            dport,
            protocol: if sample.udp { UDP } else { TCP },
            side: u8::from(!sample.client),
            client: u8::from(sample.client),
            length: None,
        }
    }

    /// The verdicts on `pieces`, sent one after the other.
    fn say(&mut self, sample: &Sample, pieces: &[&[u8]]) -> Vec<Verdict> {
        if let Some(before) = &sample.before {
            let first = Sample { client: !sample.client, ..sample.clone() };
            let p = self.payload(&first, 0);
            self.detector.ask(p, before);
        }
        let mut offset = 0;
        let mut verdicts = Vec::new();
        for piece in pieces {
            let p = self.payload(sample, offset);
            verdicts.push(self.detector.ask(p, piece));
            offset += piece.len();
            if *verdicts.last().unwrap() != Verdict::UNDECIDED {
                break; // as in the programs: the connection is decided
            }
        }
        verdicts
    }
}

#[test]
fn each_protocol_is_recognised_by_its_first_payload() {
    needs_root!();
    let mut talk = Talk::new();
    for sample in samples() {
        talk.next();
        let said = talk.say(&sample, &[&sample.bytes]);
        assert_eq!(said, [sample.verdict()], "{}", sample.name);
    }
    for app in App::all() {
        assert!(samples().iter().any(|s| s.app == app), "no sample of {app:?}");
    }
}

/// The end that opened is not always known; that never changes a verdict, but may prevent one.
#[test]
fn a_client_that_is_not_known_changes_no_verdict() {
    needs_root!();
    let mut talk = Talk::new();
    let mut recognised = 0;
    for sample in samples().iter().filter(|s| s.before.is_none()) {
        talk.next();
        let p = Payload { client: EITHER, ..talk.payload(sample, 0) };
        let said = talk.detector.ask(p, &sample.bytes);
        assert!(said == sample.verdict() || said.app() == 0 || said == Verdict::UNKNOWN, "{}: {said:?}", sample.name);
        recognised += u32::from(said == sample.verdict());
    }
    assert!(recognised >= 50, "{recognised}");
}

#[test]
fn a_split_anywhere_changes_no_verdict() {
    needs_root!();
    let mut talk = Talk::new();
    for sample in samples().iter().filter(|s| !s.udp) {
        for at in 1..sample.bytes.len() {
            talk.next();
            let (a, b) = sample.bytes.split_at(at);
            let said = talk.say(sample, &[a, b]);
            let last = *said.last().unwrap();
            // The detector does not wait for the last bytes of a ClientHello, nor for the rest of a record or a value.
            assert_eq!(last, sample.verdict(), "{} split at {at}: {said:?}", sample.name);
        }
    }
}

#[test]
fn a_first_segment_that_comes_twice_changes_no_verdict() {
    needs_root!();
    let mut talk = Talk::new();
    for sample in samples().iter().filter(|s| !s.udp) {
        for at in (1..sample.bytes.len()).step_by(3) {
            talk.next();
            let (a, b) = sample.bytes.split_at(at);
            let mut said = talk.say(sample, &[a]);
            if said == [Verdict::UNDECIDED] {
                said = [(0, a), (at, b)].map(|(at, bytes)| talk.detector.ask(talk.payload(sample, at), bytes)).to_vec();
            }
            assert_eq!(*said.last().unwrap(), sample.verdict(), "{} split at {at}", sample.name);
        }
    }
}

#[test]
fn overlapping_segments_change_no_verdict() {
    needs_root!();
    let mut talk = Talk::new();
    for sample in samples().iter().filter(|s| !s.udp && s.bytes.len() > 8) {
        for at in (4..sample.bytes.len()).step_by(5) {
            talk.next();
            let mut said = talk.say(sample, &[&sample.bytes[..at]]);
            if said == [Verdict::UNDECIDED] {
                said = vec![talk.detector.ask(talk.payload(sample, at - 3), &sample.bytes[at - 3..])];
            }
            assert_eq!(said, [sample.verdict()], "{} split at {at}", sample.name);
        }
    }
}

/// The second segment first: there is no verdict on it, except for a gRPC call that begins there; the verdict comes
/// when the hole is filled.
#[test]
fn a_hole_is_not_bridged() {
    needs_root!();
    let mut talk = Talk::new();
    // Behind a PROXY header, segments in another order are not put together: docs/limits.md.
    let plain = |s: &Sample| !s.udp && s.before.is_none() && !s.name.starts_with("PROXY");
    for sample in samples().iter().filter(|s| plain(s)) {
        for at in (1..sample.bytes.len()).step_by(7) {
            talk.next();
            let (a, b) = sample.bytes.split_at(at);
            // A segment that is kept for later is no longer than a window.
            if b.len() > 256 {
                continue;
            }
            let p = talk.payload(sample, at);
            let alone = talk.detector.ask(p, b);
            let is_call = sample.app == App::Grpc && alone == sample.verdict();
            assert!(is_call || alone == Verdict::UNDECIDED, "{} from {at} on: {alone:?}", sample.name);
            let said = talk.say(sample, &[a, b]);
            assert_eq!(*said.last().unwrap(), sample.verdict(), "{} from {at} on", sample.name);
        }
    }
}

#[test]
fn bytes_that_come_one_by_one_are_put_together() {
    needs_root!();
    let mut talk = Talk::new();
    for sample in samples().iter().filter(|s| !s.udp) {
        talk.next();
        let pieces: Vec<&[u8]> = sample.bytes.chunks(1).collect();
        let last = *talk.say(sample, &pieces).last().unwrap();
        // The detector waits for gRPC only for a number of packets.
        let expected =
            if sample.app == App::Grpc && sample.bytes.len() > 60 { verdict(App::Http2, 0) } else { sample.verdict() };
        assert_eq!(last, expected, "{}", sample.name);
    }
}

/// Cases in which the programs only know that payload follows payload.
#[test]
fn segments_that_follow_need_no_offset() {
    needs_root!();
    let mut talk = Talk::new();
    for sample in samples().iter().filter(|s| !s.udp && s.before.is_none()) {
        talk.next();
        let mut said = Verdict::UNDECIDED;
        for (n, piece) in sample.bytes.chunks(sample.bytes.len().div_ceil(3)).enumerate() {
            let p = Payload { offset: if n == 0 { 0 } else { CONTINUES }, ..talk.payload(sample, 0) };
            said = talk.detector.ask(p, piece);
            if said != Verdict::UNDECIDED {
                break;
            }
        }
        assert_eq!(said, sample.verdict(), "{}", sample.name);
    }
    // Without a first segment, there is nothing to follow.
    let sample = Sample::tcp("", App::Http, true, b"GET / HTTP/1.1\r\n\r\n");
    talk.next();
    let p = Payload { offset: CONTINUES, ..talk.payload(&sample, 0) };
    assert_eq!(talk.detector.ask(p, &sample.bytes), Verdict::UNDECIDED);
}

/// A capture may have cut packets: the rest may not be enough for a verdict, but it never yields a wrong one.
#[test]
fn cut_payload_is_its_protocol_or_none() {
    needs_root!();
    let mut talk = Talk::new();
    for sample in samples().iter().filter(|s| s.before.is_none()) {
        for there in 1..sample.bytes.len() {
            talk.next();
            let p = Payload { length: Some(sample.bytes.len() as u32), ..talk.payload(sample, 0) };
            let said = talk.detector.ask(p, &sample.bytes[..there]);
            let fits = said == sample.verdict() || said.app() == 0 || said == Verdict::UNKNOWN;
            assert!(fits || said.app() == sample.verdict().app(), "{} cut at {there}: {said:?}", sample.name);
        }
    }
}

#[test]
fn lookalikes_are_not_recognised() {
    needs_root!();
    let mut talk = Talk::new();
    for sample in lookalikes() {
        talk.next();
        for said in talk.say(&sample, &[&sample.bytes]) {
            assert!(said == Verdict::UNDECIDED || said == Verdict::UNKNOWN, "{}: {said:?}", sample.name);
        }
        for at in (1..sample.bytes.len()).filter(|_| !sample.udp) {
            talk.next();
            let (a, b) = sample.bytes.split_at(at);
            for said in talk.say(&sample, &[a, b]) {
                assert!(
                    said == Verdict::UNDECIDED || said == Verdict::UNKNOWN,
                    "{} split at {at}: {said:?}",
                    sample.name
                );
            }
        }
    }
}

/// Greetings count only at the start; the middle of a connection may contain anything.
#[test]
fn in_the_middle_only_whole_messages_count() {
    needs_root!();
    let mut talk = Talk::new();
    let mut recognised = 0;
    for sample in samples().iter().filter(|s| !s.udp && s.before.is_none()) {
        talk.next();
        let p = Payload { offset: MIDSTREAM, ..talk.payload(sample, 0) };
        let said = talk.detector.ask(p, &sample.bytes);
        let start_only = matches!(
            sample.app,
            App::Ssh
                | App::Smtp
                | App::Nats
                | App::Amqp
                | App::Mysql
                | App::Postgres
                | App::Mqtt
                | App::Cassandra
                | App::Http2
                | App::Grpc
        );
        if start_only {
            assert_eq!(said, Verdict::UNDECIDED, "{}", sample.name);
        } else {
            let fits = said == Verdict::UNDECIDED || said.app() == sample.verdict().app();
            assert!(fits, "{}: {said:?}", sample.name);
            recognised += u32::from(said != Verdict::UNDECIDED);
        }
    }
    assert!(recognised >= 20, "{recognised}");
}

#[test]
fn tls_records_are_recognised_in_the_middle() {
    needs_root!();
    let mut talk = Talk::new();
    let record = |length: usize| [&[23, 3, 3, (length >> 8) as u8, length as u8][..], &vec![0xa5; length]].concat();
    let sample = Sample::tcp("records", App::Tls, true, &[]);
    let mut ask = |bytes: &[u8]| {
        talk.next();
        let p = Payload { offset: MIDSTREAM, ..talk.payload(&sample, 0) };
        talk.detector.ask(p, bytes)
    };
    let tls = verdict(App::Tls, 0);
    assert_eq!(ask(&record(100)), tls);
    assert_eq!(ask(&record(1300)), tls);
    assert_eq!(ask(&[record(50), record(700)].concat()), tls);
    assert_eq!(ask(&[record(300), record(1400)[..600].to_vec()].concat()), tls, "a header behind a whole record");
    assert_eq!(ask(&record(1400)[..1000]), Verdict::UNDECIDED, "five bytes alone");
    assert_eq!(ask(&[record(100), vec![0; 50]].concat()), Verdict::UNDECIDED, "what follows is no record");
    assert_eq!(ask(&record(100)[..104]), Verdict::UNDECIDED);
}

#[test]
fn a_protocol_that_is_not_enabled_is_not_recognised() {
    needs_root!();
    for app in App::all() {
        let mut talk = Talk::new();
        talk.detector = Detector::load(!(1 << number(app)));
        for sample in samples() {
            talk.next();
            let said = *talk.say(&sample, &[&sample.bytes]).last().unwrap();
            let expected = match (app, sample.app) {
                (App::Grpc, App::Grpc) => verdict(App::Http2, 0),
                (a, b) if a == b => {
                    assert!(said == Verdict::UNKNOWN || said.app() == 0, "{} without {app:?}: {said:?}", sample.name);
                    continue;
                }
                _ if Some(app) == sample.next => verdict(sample.app, sample.version),
                _ => sample.verdict(),
            };
            assert_eq!(said, expected, "{} without {app:?}", sample.name);
        }
    }
    let mut talk = Talk::new();
    talk.detector = Detector::load(0);
    for sample in samples() {
        talk.next();
        let said = *talk.say(&sample, &[&sample.bytes]).last().unwrap();
        assert!(said == Verdict::UNKNOWN || said.app() == 0, "{}: {said:?}", sample.name);
    }
}
