//! The BPF programs on injected packets: bytes in, records and counters out.

mod apps;
mod books;
mod cache;
mod cut;
mod differential;
mod fragments;
mod headers;
mod latency;
mod oracle;
mod sampling;
mod segments;
mod states;
mod sweep;
mod table;
mod trace;
mod tunnels;
mod wakes;

use std::collections::HashMap;

use netmon::bpf::{Cause, Endpoint, Frame, Hook, Injector, InterfaceBooks, Record, Tally};

use crate::support::kernel::{Kernel, assert_conserved, difference, small, total};
use crate::support::vary::Vary;

/// Packets, with those inside, between two checks of the records: not more than one CPU's cache and the ring hold.
const BATCH: usize = 4096;

/// The flow that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    v6: bool,
    source: Endpoint,
    destination: Endpoint,
    protocol: u8,
    vlan: u16,
    inner_vlan: u16,
    /// True if it was in a tunnel.
    inner: bool,
}

impl Key {
    fn of(r: &Record) -> Key {
        Key {
            v6: r.v6,
            source: r.source,
            destination: r.destination,
            protocol: r.protocol,
            vlan: r.vlan,
            inner_vlan: r.inner_vlan,
            inner: r.inner,
        }
    }

    /// Sets the addresses of `packet`'s IP header at `l3`; both are 0 if the packet ends before them.
    fn at(mut self, packet: &[u8], l3: usize) -> Key {
        let (from, length) = if self.v6 { (l3 + 8, 16) } else { (l3 + 12, 4) };
        for (endpoint, at) in [(&mut self.source, from), (&mut self.destination, from + length)] {
            if let Some(address) = packet.get(at..at + length) {
                endpoint.address[..length].copy_from_slice(address);
            }
        }
        self
    }
}

/// What the programs read from a packet besides its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flags {
    tcp: u8,
    syn: bool,
    syn_ack: bool,
    /// ICMP type and code of the latest packet.
    icmp: (u8, u8),
}

impl Flags {
    fn tcp(flags: u8) -> Flags {
        let (syn, ack) = (flags & 2 != 0, flags & 16 != 0);
        Flags { tcp: flags, syn: syn && !ack, syn_ack: syn && ack, icmp: (0, 0) }
    }
}

/// The expected result for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Flow(Key, Flags),
    NotIp,
    Malformed,
}

/// What was expected, or recorded, for a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    sum: Tally,
    flags: Flags,
}

impl Seen {
    fn add(&mut self, tally: Tally, flags: Flags) {
        self.sum += tally;
        self.flags.tcp |= flags.tcp;
        self.flags.syn |= flags.syn;
        self.flags.syn_ack |= flags.syn_ack;
        self.flags.icmp = flags.icmp;
    }
}

/// Injects many packets and compares the results of all of them, key by key and to the byte. Reading the records costs
/// more than a thousand packets, so packets are distinguished by their addresses instead.
struct Checker {
    kernel: Kernel,
    injector: Injector,
    vary: Vary,
    before: InterfaceBooks,
    expected: HashMap<Key, Seen>,
    books: InterfaceBooks,
    /// Packets since the last check with their names, for the message.
    packets: Vec<(String, Expect, Vec<u8>)>,
    checked: usize,
}

impl Checker {
    /// Creates a checker; with `ethernet`, packets start with an Ethernet header.
    fn new(ethernet: bool) -> Checker {
        pin(0);
        let kernel = Kernel::load(small()).unwrap();
        let injector = kernel.injector(Hook::Ingress, ethernet);
        Checker {
            before: kernel.books(),
            vary: Vary::load(&kernel.bpf.program(Hook::Ingress, ethernet).unwrap()),
            kernel,
            injector,
            expected: HashMap::new(),
            books: InterfaceBooks::default(),
            packets: Vec::new(),
            checked: 0,
        }
    }

    fn inject(&mut self, name: &str, packet: &[u8], expect: Expect) {
        self.inject_with(name, packet, expect, None);
    }

    /// Injects a packet that may have another inside, with its length in bytes.
    fn inject_with(&mut self, name: &str, packet: &[u8], expect: Expect, inner: Option<(Expect, u64)>) {
        let verdict = if packet.len() < 14 + 40 {
            self.vary.cut(packet, packet.len())
        } else {
            self.injector.inject(packet, Frame::default(), 1).unwrap()
        };
        assert_eq!(verdict as i32, -1, "the programs let every packet pass");
        let tally = Tally { packets: 1, bytes: packet.len() as u64 };
        self.books.ingress += tally;
        self.books.whole[0] += 1;
        self.add(name, packet, expect, tally);
        if let Some((expect, bytes)) = inner {
            let tally = Tally { packets: 1, bytes };
            self.books.decapsulated += tally;
            self.add(name, packet, expect, tally);
        }
        self.checked += 1;
        if self.packets.len() >= BATCH {
            self.check();
        }
    }

    fn add(&mut self, name: &str, packet: &[u8], expect: Expect, tally: Tally) {
        match expect {
            Expect::Flow(key, flags) => self.expected.entry(key).or_default().add(tally, flags),
            Expect::NotIp => self.books.not_ip += tally,
            Expect::Malformed => self.books.malformed += tally,
        }
        self.packets.push((name.to_owned(), expect, packet.to_vec()));
    }

    /// Compares, and starts again.
    fn check(&mut self) {
        let records = self.kernel.flush();
        let now = self.kernel.books();
        let books = difference(now, self.before);
        let mut recorded = HashMap::<Key, Seen>::new();
        for r in records.iter().filter(|r| r.cause != Cause::Quoted) {
            let flags = Flags { tcp: r.tcp_flags, syn: r.syn, syn_ack: r.syn_ack, icmp: (r.icmp_type, r.icmp_code) };
            let tally = Tally { packets: r.packets, bytes: r.bytes };
            recorded.entry(Key::of(r)).or_default().add(tally, flags);
        }
        if recorded != self.expected || books != self.books {
            self.complain(&recorded, &books);
        }
        assert_conserved(&books, total(&records));
        self.before = now;
        self.books = InterfaceBooks::default();
        self.expected.clear();
        self.packets.clear();
    }

    fn complain(&self, recorded: &HashMap<Key, Seen>, books: &InterfaceBooks) -> ! {
        let wrong = self.packets.iter().filter(|(_, expect, _)| match expect {
            Expect::Flow(key, _) => recorded.get(key) != self.expected.get(key),
            _ => false,
        });
        for (name, expect, packet) in wrong.take(5) {
            let hex: String = packet.iter().map(|b| format!("{b:02x}")).collect();
            eprintln!("{name}: {hex}\n    expected {expect:?}");
        }
        for (key, seen) in recorded.iter().filter(|(k, s)| self.expected.get(k) != Some(s)).take(5) {
            eprintln!("    recorded {key:?} {seen:?}");
        }
        panic!("records or books are not as expected: books {books:?}, expected {:?}", self.books);
    }
}

/// Keeps the calling thread on one CPU, so that its packets are in one cache, and in order.
fn pin(cpu: usize) {
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(cpu).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).unwrap();
}
