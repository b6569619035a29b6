//! Random payloads, a million of them under `make test-all`: the detector's verdicts must agree with the
//! specifications.

use std::collections::BTreeMap;
use std::time::Instant;

use netmon::bpf::App;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

use super::lookalikes::lookalikes;
use super::oracle::Said;
use super::samples::{Sample, samples};
use crate::needs_root;
use crate::support::detect::{Detector, EITHER, MIDSTREAM, Payload, Verdict};
use crate::support::packet::{TCP, UDP};
use crate::support::{repeat, seed};

const PORTS: [u16; 14] = [25, 53, 80, 443, 587, 1883, 3306, 4222, 5432, 6379, 9042, 9092, 11211, 33333];

/// Bytes that have a meaning in some protocol.
const TELLING: &[u8] = b"\0\0\0\x01\x02\x03\x04\x05\x08\x0a\x10\x16\x17\x20\x80\x81\xff\r\n \r\n $*+-:/{\"";

const WORDS: [&str; 24] = [
    "GET", "POST", "get", "set", "HELO", "EHLO", "PING", "220", "250-", "HTTP/1.1", "HTTP/1.", "+OK", "-ERR", "$5",
    "*2", "INFO", "CONNECT", "VALUE", "END", "STORED", "SSH-2.0-", "user", "SMTP", "the",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Random,
    Text,
    Mutated,
    Spliced,
}

fn text(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(1..12) {
        match rng.random_range(0..4) {
            0 => bytes.extend((0..rng.random_range(1..12)).map(|_| rng.random_range(32..127u8))),
            1 => bytes.extend(rng.random_range(0..100u32).to_string().bytes()),
            _ => bytes.extend(WORDS.choose(rng).unwrap().bytes()),
        }
        bytes.extend(*[&b" "[..], b" ", b"\r\n", b"\n", b""].choose(rng).unwrap());
    }
    bytes
}

fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>) {
    // Mutate mostly the first bytes, which matter most.
    let near = if rng.random() { bytes.len().min(24) } else { bytes.len() };
    let at = rng.random_range(0..near);
    match rng.random_range(0..7) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => bytes[at] = *TELLING.choose(rng).unwrap(),
        3 => bytes.truncate(at + 1),
        4 => bytes.insert(at, *TELLING.choose(rng).unwrap()),
        5 => bytes.extend((0..rng.random_range(1..40)).map(|_| rng.random::<u8>())),
        _ => drop(bytes.remove(at)),
    }
    if bytes.is_empty() {
        bytes.push(rng.random());
    }
}

fn generate(rng: &mut SmallRng, pool: &[Sample]) -> (Kind, Vec<u8>) {
    match rng.random_range(0..8) {
        0 => {
            let mut bytes = vec![0; rng.random_range(1..400)];
            rng.fill_bytes(&mut bytes);
            (Kind::Random, bytes)
        }
        1 => (Kind::Text, text(rng)),
        2 => {
            let (a, b) = (&pool.choose(rng).unwrap().bytes, &pool.choose(rng).unwrap().bytes);
            let bytes = [&a[..rng.random_range(1..=a.len())], &b[rng.random_range(0..b.len())..]].concat();
            // A packet is not longer than a page.
            (Kind::Spliced, bytes[..bytes.len().min(3000)].to_vec())
        }
        _ => {
            let mut bytes = pool.choose(rng).unwrap().bytes.clone();
            for _ in 0..*[1, 1, 2, 3, 5].choose(rng).unwrap() {
                mutate(rng, &mut bytes);
            }
            (Kind::Mutated, bytes)
        }
    }
}

/// The detector, and the one that asks about every protocol: they always agree.
struct Pair(Detector, Detector);

impl Pair {
    fn ask(&mut self, p: Payload, bytes: &[u8]) -> Verdict {
        let verdict = self.0.ask(p, bytes);
        assert_eq!(verdict, self.1.ask(p, bytes), "the first bytes rule out what there is: {p:?} {bytes:02x?}");
        verdict
    }
}

#[test]
fn no_verdict_is_wrong() {
    needs_root!();
    let payloads: u64 = repeat(200_000, 1_000_000);
    let (mut rng, begun) = (SmallRng::seed_from_u64(seed()), Instant::now());
    let mut detector = Pair(Detector::load(u32::MAX), Detector::load_all(u32::MAX));
    let pool = [samples(), lookalikes()].concat();
    let mut verdicts = BTreeMap::<Kind, (u64, u64)>::new();
    let mut apps = BTreeMap::<u8, u64>::new();
    let mut wrong = Vec::new();
    let mut of_app = BTreeMap::<App, u64>::new();
    for flow in 1..=payloads {
        let (kind, bytes) = generate(&mut rng, &pool);
        let port = *PORTS.choose(&mut rng).unwrap();
        let client = *[0, 1, 1, EITHER].choose(&mut rng).unwrap();
        let (sport, dport) = if client == 0 || rng.random_ratio(1, 8) { (port, 40000) } else { (40000, port) };
        let udp = rng.random_ratio(1, 4);
        let middle = !udp && rng.random_ratio(1, 8);
        let mut p = Payload {
            flow: flow.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            offset: 0,
            sport,
            dport,
            protocol: if udp { UDP } else { TCP },
            side: u8::from(client != 1),
            client,
            length: None,
        };
        let mut said = Said { bytes: &bytes, before: None, client, sport, dport, udp, middle };
        let before = pool.choose(&mut rng).unwrap();
        if !udp && rng.random_ratio(1, 4) {
            let other =
                Payload { side: 1 - p.side, client: [1, 0, 2][usize::from(client)], sport: dport, dport: sport, ..p };
            detector.ask(other, &before.bytes);
            said.before = Some(&before.bytes);
        }
        let mut verdict = Verdict::UNDECIDED;
        if middle {
            p.offset = MIDSTREAM;
            verdict = detector.ask(p, &bytes);
        } else if udp || bytes.len() < 2 || rng.random() {
            verdict = detector.ask(p, &bytes);
        } else {
            // In pieces: the verdict depends on everything up to it.
            let (mut at, mut step) = (0, rng.random_range(1..bytes.len()));
            while at < bytes.len() && verdict == Verdict::UNDECIDED {
                let end = (at + step).min(bytes.len());
                p.offset = at as u32;
                verdict = detector.ask(p, &bytes[at..end]);
                said.bytes = &bytes[..end];
                at = end;
                step = rng.random_range(1..=bytes.len());
            }
        }
        let counts = verdicts.entry(kind).or_default();
        counts.0 += 1;
        if verdict == Verdict::UNDECIDED || verdict == Verdict::UNKNOWN {
            continue;
        }
        counts.1 += 1;
        *apps.entry(verdict.app()).or_default() += 1;
        let app = App::all()[usize::from(verdict.app()) - 1];
        if let Err(reason) = said.allows(app, verdict.0 >> 8 & 0xff, verdict.0 >> 24) {
            let of_app = of_app.entry(app).or_default();
            *of_app += 1;
            if *of_app > 3 {
                continue; // those of other protocols are more useful
            }
            wrong.push(format!("{app:?} {} {reason} ({kind:?}): {said}", verdict.0 >> 8));
        } else if kind == Kind::Random {
            eprintln!("by chance {app:?}: {said}");
        }
    }
    eprintln!("{payloads} payloads in {:?}; payloads and verdicts {verdicts:?}; by protocol {apps:?}", begun.elapsed());
    assert!(wrong.is_empty(), "wrong verdicts {of_app:?}:\n{}", wrong.join("\n"));
    // A generator that never produces a protocol tests nothing.
    for app in 1..=App::all().len() as u8 {
        assert!(
            apps.get(&app).is_some_and(|n| *n > payloads / 10_000),
            "protocol {app} is recognised too rarely: {apps:?}"
        );
    }
    assert!(verdicts[&Kind::Random].0 > payloads / 10 && verdicts[&Kind::Random].1 <= 1, "{verdicts:?}");
}
