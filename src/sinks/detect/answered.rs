//! Who has answered lately, in a fixed amount of memory: what answers is not a scan, and what stops answering has failed.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;

use foldhash::quality::RandomState;

/// Bits of each filter: with 100,000 pairs in it, one in 20 others seems to be there, too.
const BITS: usize = 1 << 20;
/// Counters, each for all keys with the same hash.
const COUNTERS: usize = 1 << 16;
/// For how long an answer counts at the least, and half of how long it counts at the most.
const GENERATION_NS: u64 = 600_000_000_000;

/// Something that is counted.
#[derive(Hash)]
enum Key {
    /// This port of this host has answered anybody.
    Port(IpAddr, u8, u16),
    /// It has answered this source.
    To(IpAddr, IpAddr, u8, u16),
    /// Hosts that have answered this source at this port.
    Hosts(IpAddr, u8, u16),
    /// Ports of this host that have answered this source.
    Ports(IpAddr, IpAddr, u8),
}

/// What has answered in about ten minutes.
struct Generation {
    /// A Bloom filter of ports, and of ports by source.
    seen: Box<[u64]>,
    counts: Box<[u16]>,
}

impl Generation {
    fn new() -> Generation {
        // Zeroed pages take no memory until they are written.
        Generation { seen: vec![0; BITS / 64].into(), counts: vec![0; COUNTERS].into() }
    }

    /// Two bits of the filter.
    fn bits(hash: u64) -> [usize; 2] {
        [hash as usize % BITS, (hash >> 32) as usize % BITS]
    }

    fn has(&self, hash: u64) -> bool {
        Generation::bits(hash).iter().all(|bit| self.seen[bit / 64] >> (bit % 64) & 1 == 1)
    }

    /// True if it was not there before.
    fn add(&mut self, hash: u64) -> bool {
        let new = !self.has(hash);
        Generation::bits(hash).iter().for_each(|bit| self.seen[bit / 64] |= 1 << (bit % 64));
        new
    }

    /// Two counters: the lesser one has fewer of other keys in it.
    fn places(hash: u64) -> [usize; 2] {
        [hash as usize % COUNTERS, (hash >> 32) as usize % COUNTERS]
    }

    fn count(&self, hash: u64) -> u16 {
        Generation::places(hash).map(|place| self.counts[place]).into_iter().min().unwrap_or_default()
    }

    fn increment(&mut self, hash: u64) {
        for place in Generation::places(hash) {
            self.counts[place] = self.counts[place].saturating_add(1);
        }
    }
}

/// Answers of the last ten to twenty minutes. It may have a little too much, and never misses one: it speaks for the innocent.
pub(super) struct Answered {
    /// The present generation, and the one before.
    generations: [Generation; 2],
    since_ns: u64,
    hasher: RandomState,
}

impl Answered {
    pub(super) fn new(now_ns: u64) -> Answered {
        Answered {
            generations: [Generation::new(), Generation::new()],
            since_ns: now_ns,
            hasher: RandomState::default(),
        }
    }

    /// Forgets what is too old.
    pub(super) fn turn(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.since_ns);
        if passed_ns >= GENERATION_NS {
            self.since_ns = now_ns;
            self.generations.swap(0, 1);
            self.generations[0] = Generation::new();
        }
        // A capture may have a gap of hours.
        if passed_ns >= 2 * GENERATION_NS {
            self.generations[1] = Generation::new();
        }
    }

    fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Notes that the port has answered the source.
    pub(super) fn note(&mut self, source: IpAddr, target: IpAddr, protocol: u8, port: u16) {
        let [anybody, pair, hosts, ports] = [
            Key::Port(target, protocol, port),
            Key::To(source, target, protocol, port),
            Key::Hosts(source, protocol, port),
            Key::Ports(source, target, protocol),
        ]
        .map(|key| self.hash(&key));
        let present = &mut self.generations[0];
        present.add(anybody);
        if present.add(pair) {
            present.increment(hosts);
            present.increment(ports);
        }
    }

    /// True if the port has answered anybody.
    pub(super) fn has(&self, target: IpAddr, protocol: u8, port: u16) -> bool {
        let hash = self.hash(&Key::Port(target, protocol, port));
        self.generations.iter().any(|generation| generation.has(hash))
    }

    fn count(&self, key: &Key) -> u32 {
        let hash = self.hash(key);
        // Who answers all the time is in both.
        self.generations.iter().map(|generation| generation.count(hash)).max().unwrap_or_default().into()
    }

    /// Hosts that have answered the source at this port.
    pub(super) fn hosts(&self, source: IpAddr, protocol: u8, port: u16) -> u32 {
        self.count(&Key::Hosts(source, protocol, port))
    }

    /// Ports of the target that have answered the source.
    pub(super) fn ports(&self, source: IpAddr, target: IpAddr, protocol: u8) -> u32 {
        self.count(&Key::Ports(source, target, protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + last).into()
    }

    #[test]
    fn answers_count_once_and_are_forgotten() {
        let mut answered = Answered::new(0);
        for _ in 0..3 {
            for host in 10..30 {
                answered.note(ip(1), ip(host), 6, 80);
            }
        }
        answered.note(ip(2), ip(10), 6, 443);
        assert!(answered.has(ip(10), 6, 80) && answered.has(ip(10), 6, 443));
        assert!(!answered.has(ip(10), 17, 80) && !answered.has(ip(9), 6, 80));
        assert_eq!((answered.hosts(ip(1), 6, 80), answered.hosts(ip(2), 6, 80)), (20, 0));
        assert_eq!((answered.ports(ip(1), ip(10), 6), answered.ports(ip(2), ip(10), 6)), (1, 1));
        answered.turn(GENERATION_NS);
        assert!(answered.has(ip(10), 6, 80));
        assert_eq!(answered.hosts(ip(1), 6, 80), 20);
        answered.turn(2 * GENERATION_NS);
        assert!(!answered.has(ip(10), 6, 80));
        assert_eq!(answered.hosts(ip(1), 6, 80), 0);
    }

    #[test]
    fn many_answers_hide_few_failures() {
        let mut answered = Answered::new(0);
        for pair in 0..100_000 {
            answered.note(ip(pair % 100), ip(1000 + pair), 6, 80);
        }
        let seeming = (0..10_000).filter(|&host| answered.has(ip(10_000_000 + host), 6, 80)).count();
        assert!(seeming < 2000, "{seeming} of 10,000");
    }
}
