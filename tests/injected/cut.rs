//! Every packet cut off at every length: its flow as long as its headers are complete, then none, and never another
//! one.

use super::table::{LINKS, cases};
use super::{Checker, Expect};
use crate::needs_root;
use crate::support::packet::*;

/// The kernel runs programs only on packets of at least this length.
const SHORTEST: usize = 14;

fn cut_everywhere(ethernet: bool) -> usize {
    let mut checker = Checker::new(ethernet);
    let mut n = 0;
    for case in cases(ethernet) {
        let mut packet = case.bytes.clone();
        for length in SHORTEST..packet.len() {
            stamp(&mut packet, case.l3, case.key.v6, n);
            n += 1;
            let short = &packet[..length];
            checker.inject(&case.name, short, case.expect(short));
        }
    }
    checker.check();
    checker.checked
}

#[test]
fn cut_packets_are_their_flow_or_none() {
    needs_root!();
    let checked = cut_everywhere(true);
    assert!(checked > 300_000, "{checked} packets");
}

#[test]
fn cut_packets_without_ethernet_are_their_flow_or_none() {
    needs_root!();
    let checked = cut_everywhere(false);
    assert!(checked > 40_000, "{checked} packets");
}

/// Packets other than IP remain so; only a tag that is cut is malformed.
#[test]
fn cut_packets_that_are_not_ip() {
    needs_root!();
    let mut checker = Checker::new(true);
    for (name, tags, ..) in LINKS {
        let packet = ethernet(tags, 0x0806, &[0x45; 40]);
        for length in SHORTEST..packet.len() {
            let tags_whole = length >= 14 + 4 * tags.len();
            checker.inject(name, &packet[..length], if tags_whole { Expect::NotIp } else { Expect::Malformed });
        }
    }
    checker.check();
}
