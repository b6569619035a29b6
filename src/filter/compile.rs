//! Compiles a packet filter into tests of the BPF program: each leads to a later one, to "passes" or to "fails".

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::packet::{Holds, PacketField, passing_texts, positive};
use super::{Comparison, Node, Operand, Test, Value};
use crate::bpf::{Asks, MOST_TESTS, Next, PacketTest, PacketWord};

const TCP: u32 = 6;
/// ICMP and ICMPv6.
const ICMP: [u32; 2] = [1, 58];
/// TCP, UDP, SCTP.
const WITH_PORTS: [u32; 3] = [TCP, 17, 132];

pub(super) fn compile(
    node: &Node<&'static PacketField>,
    interfaces: &BTreeMap<u32, String>,
) -> Result<Vec<PacketTest>, String> {
    let mut tests = Tests { backwards: Vec::new(), interfaces, too_many: false };
    let first = tests.node(node, To::Passes, To::Fails);
    tests.forwards(first)
}

/// Maximum number of tests while they are built, when there may be some that nothing leads to.
const MOST_BUILT: usize = 4096;

/// Where a test leads: to an end, or to a test by its number from the end.
#[derive(Clone, Copy)]
enum To {
    Passes,
    Fails,
    Test(usize),
}

/// Tests, which are built from the end, so that each has a known target.
struct Tests<'a> {
    backwards: Vec<(PacketWord, Asks, To, To)>,
    interfaces: &'a BTreeMap<u32, String>,
    too_many: bool,
}

impl Tests<'_> {
    /// The tests in the order in which they run.
    fn forwards(mut self, first: To) -> Result<Vec<PacketTest>, String> {
        if self.too_many {
            return Err(format!(
                "the filter needs more than {MOST_BUILT} tests, and the programs have room for {MOST_TESTS}"
            ));
        }
        match first {
            // Tests that were built after the first one are not used.
            To::Test(number) => self.backwards.truncate(number + 1),
            // The result is the same for every packet: use one test whose answer does not matter.
            end => self.backwards = vec![(PacketWord::Family, Asks::Masked { mask: 0, value: 0 }, end, end)],
        }
        let count = self.backwards.len();
        if count > MOST_TESTS {
            return Err(format!("the filter needs {count} tests, and the programs have room for {MOST_TESTS}"));
        }
        let next = |to: To| match to {
            To::Passes => Next::Passes,
            To::Fails => Next::Fails,
            To::Test(number) => Next::Test((count - 1 - number) as u8),
        };
        let tests = self.backwards.iter().rev();
        let test = |(word, asks, then, otherwise): &(PacketWord, Asks, To, To)| PacketTest {
            word: *word,
            asks: *asks,
            then: next(*then),
            otherwise: next(*otherwise),
        };
        Ok(tests.map(test).collect())
    }

    fn test(&mut self, word: PacketWord, asks: Asks, then: To, otherwise: To) -> To {
        if self.backwards.len() == MOST_BUILT {
            self.too_many = true;
            return otherwise;
        }
        self.backwards.push((word, asks, then, otherwise));
        To::Test(self.backwards.len() - 1)
    }

    fn node(&mut self, node: &Node<&'static PacketField>, yes: To, no: To) -> To {
        match node {
            Node::Any(nodes) => nodes.iter().rev().fold(no, |next, node| self.node(node, yes, next)),
            Node::All(nodes) => nodes.iter().rev().fold(yes, |next, node| self.node(node, next, no)),
            Node::Not(node) => self.node(node, no, yes),
            Node::Test(field, test) => {
                let (test, negated) = positive(test);
                if negated { self.field(field, &test, no, yes) } else { self.field(field, &test, yes, no) }
            }
        }
    }

    fn field(&mut self, field: &PacketField, test: &Test, yes: To, no: To) -> To {
        match field.holds {
            Holds::Ip(ends) => {
                let Test::Within { network, .. } = test else { return no };
                let words: [fn(u8) -> PacketWord; 2] = [PacketWord::Source, PacketWord::Destination];
                let chosen = words.into_iter().zip(ends).filter(|(_, counts)| *counts).rev();
                chosen.fold(no, |next, (word, _)| self.within(word, network, yes, next))
            }
            Holds::Port(ends) => {
                let ranges = numbers(test, 0..=u32::from(u16::MAX));
                let words = [PacketWord::SourcePort, PacketWord::DestinationPort];
                let chosen = words.into_iter().zip(ends).filter(|(_, counts)| *counts).rev();
                let first = chosen.fold(no, |next, (word, _)| self.ranges(word, &ranges, yes, next));
                self.of_protocols(&WITH_PORTS, first, no)
            }
            Holds::IcmpType | Holds::IcmpCode => {
                let word = if field.holds == Holds::IcmpType { PacketWord::IcmpType } else { PacketWord::IcmpCode };
                let passing = numbers(test, 0..=255).into_iter().flatten();
                let first = self.set(word, passing, yes, no);
                self.of_protocols(&ICMP, first, no)
            }
            Holds::Vlan => self.ranges(PacketWord::Vlan, &numbers(test, 1..=4095), yes, no),
            Holds::TcpFlags => {
                let first = self.texts(PacketWord::TcpFlags, field, test, yes, no);
                self.of_protocols(&[TCP], first, no)
            }
            Holds::Protocol => self.texts(PacketWord::Protocol, field, test, yes, no),
            Holds::Hook => self.texts(PacketWord::Hook, field, test, yes, no),
            Holds::Verdict => self.texts(PacketWord::Fate, field, test, yes, no),
            Holds::Interface => {
                let passes = |name: &String| test.matches([Some(Value::Text(name)), None]);
                let passing = self.interfaces.iter().filter(|(_, name)| passes(name)).map(|(index, _)| *index);
                let ranges: Vec<_> = passing.map(|index| index..=index).collect();
                self.ranges(PacketWord::Interface, &ranges, yes, no)
            }
        }
    }

    fn texts(&mut self, word: PacketWord, field: &PacketField, test: &Test, yes: To, no: To) -> To {
        let texts = field.texts();
        self.set(word, passing_texts(test, texts.iter().map(String::as_str)).into_iter(), yes, no)
    }

    fn of_protocols(&mut self, protocols: &[u32], first: To, no: To) -> To {
        self.set(PacketWord::Protocol, protocols.iter().copied(), first, no)
    }

    fn set(&mut self, word: PacketWord, numbers: impl Iterator<Item = u32>, yes: To, no: To) -> To {
        let mut set = [0; 8];
        numbers.for_each(|number| set[number as usize / 32] |= 1 << (number % 32));
        if set == [0; 8] { no } else { self.test(word, Asks::In(set), yes, no) }
    }

    /// Tests whether the word is in any of the ranges.
    fn ranges(&mut self, word: PacketWord, ranges: &[RangeInclusive<u32>], yes: To, no: To) -> To {
        ranges.iter().rev().fold(no, |next, range| {
            let (least, most) = (*range.start(), *range.end());
            if least == most {
                return self.test(word, Asks::Masked { mask: u32::MAX, value: least }, yes, next);
            }
            // The largest port needs no upper bound.
            let open = most >= u32::from(u16::MAX);
            let within = if open { yes } else { self.test(word, Asks::AtLeast(most + 1), next, yes) };
            if least == 0 { within } else { self.test(word, Asks::AtLeast(least), within, next) }
        })
    }

    fn within(&mut self, word: fn(u8) -> PacketWord, network: &IpNet, yes: To, no: To) -> To {
        let (family, quarters): (u32, Vec<u32>) = match network.network() {
            IpAddr::V4(ip) => (4, vec![ip.to_bits()]),
            IpAddr::V6(ip) => (6, [96, 64, 32, 0].map(|shift| (ip.to_bits() >> shift) as u32).to_vec()),
        };
        let length = u32::from(network.prefix_len());
        let first = quarters.iter().enumerate().rev().fold(yes, |next, (i, value)| {
            let bits = length.saturating_sub(32 * i as u32).min(32);
            if bits == 0 {
                return next;
            }
            let mask = u32::MAX << (32 - bits);
            self.test(word(i as u8), Asks::Masked { mask, value: *value }, next, no)
        });
        self.test(PacketWord::Family, Asks::Masked { mask: u32::MAX, value: family }, first, no)
    }
}

/// The numbers that pass, as ranges.
fn numbers(test: &Test, all: RangeInclusive<u32>) -> Vec<RangeInclusive<u32>> {
    if let Test::Compare { value: Operand::Number(with), comparison } = test {
        let (least, most) = match comparison {
            Comparison::Less => (f64::NEG_INFINITY, with.ceil() - 1.0),
            Comparison::LessOrEqual => (f64::NEG_INFINITY, with.floor()),
            Comparison::Greater => (with.floor() + 1.0, f64::INFINITY),
            Comparison::GreaterOrEqual => (with.ceil(), f64::INFINITY),
            // "Unequal" has been turned into "not equal"; no integer is equal to a fraction.
            Comparison::Equal | Comparison::Unequal => (with.ceil(), with.floor()),
        };
        let (least, most) = (least.max(f64::from(*all.start())), most.min(f64::from(*all.end())));
        // Nothing passes a comparison with NaN.
        let some = least <= most && !with.is_nan();
        return if some { vec![least as u32..=most as u32] } else { Vec::new() };
    }
    // A glob is matched against the digits of each number.
    let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
    for number in all.filter(|number| test.matches([Some(Value::Number(f64::from(*number))), None])) {
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == number => *last = *last.start()..=number,
            _ => ranges.push(number..=number),
        }
    }
    ranges
}
