//! Traffic as records, and who is who in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::super::samples::S;
use crate::bpf::{Cause, Endpoint, Hook, Record};
use crate::flow::Party;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// The node's own address.
pub(super) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 200));

/// The API server's.
pub(super) fn api_server() -> IpAddr {
    v4(10, 0, 0, 100)
}

pub(super) fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    Ipv4Addr::new(a, b, c, d).into()
}

pub(super) fn v6(group: u16, host: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, group, 0, 0, 0, host).into()
}

/// A pod of this workload.
pub(super) fn pod(workload: u8, number: u8) -> IpAddr {
    v4(10, 244, workload, number)
}

/// Pods that a rolling restart ends, and when.
pub(super) fn lost_pods() -> impl Iterator<Item = (IpAddr, u64)> {
    (1..=50).map(|number| (pod(5, number), 600 * S + u64::from(number) * 4 * S))
}

/// Who has an address; servers have their ports. Pods of workload 9 are endpoints of a service.
pub(super) fn party(ip: IpAddr, port: Option<u16>) -> Option<Arc<Party>> {
    let IpAddr::V4(v4) = ip else { return None };
    let text = |text: String| Some(Arc::<str>::from(text));
    let party = match (v4.octets(), port) {
        // Pods that a restart has ended have no name any more, and none beyond 200 exists.
        ([10, 244, 5, 1..=50] | [10, 244, _, 200..=255], _) => return None,
        ([10, 244, workload, number], port) => Party {
            namespace: text("shop".into()),
            pod: text(format!("w{workload}-{number}")),
            workload: text(format!("w{workload}")),
            service: (workload == 9 && port == Some(5432)).then(|| "db".into()),
            ..Party::default()
        },
        ([10, 0, 0, 100], Some(443)) => {
            Party { namespace: text("default".into()), service: text("kubernetes".into()), ..Party::default() }
        }
        _ => return None,
    };
    Some(Arc::new(party))
}

/// Records in the order of their time.
#[derive(Default)]
pub(super) struct Traffic {
    records: Vec<Record>,
    port: u16,
}

impl FromIterator<Traffic> for Traffic {
    fn from_iter<I: IntoIterator<Item = Traffic>>(all: I) -> Traffic {
        let mut records: Vec<Record> = all.into_iter().flat_map(|traffic| traffic.records).collect();
        records.sort_by_key(|record| record.last_ns);
        Traffic { records, port: 0 }
    }
}

impl Traffic {
    /// From this source port on, so that different traffic has different flows.
    pub(super) fn from_port(port: u16) -> Traffic {
        Traffic { records: Vec::new(), port }
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// Put in order.
    pub(super) fn sorted(mut self) -> Traffic {
        self.records.sort_by_key(|record| record.last_ns);
        self
    }

    fn next_port(&mut self) -> u16 {
        self.port = if self.port == u16::MAX { 10_000 } else { self.port + 1 };
        self.port
    }

    fn add(&mut self, from: (IpAddr, u16), to: (IpAddr, u16), protocol: u8, at_ns: u64, record: Record) {
        let record = Record {
            v6: from.0.is_ipv6(),
            source: Endpoint::of(from.0, from.1),
            destination: Endpoint::of(to.0, to.1),
            protocol,
            ifindex: 7,
            packets: record.packets.max(1),
            bytes: record.bytes.max(60),
            first_ns: record.first_ns.max(at_ns),
            last_ns: record.last_ns.max(at_ns),
            ..record
        };
        self.records.push(if record.cause == Cause::Quoted {
            Record { packets: 0, bytes: 0, ..record }
        } else {
            record
        });
    }

    fn segment(&mut self, from: (IpAddr, u16), to: (IpAddr, u16), at_ns: u64, flags: u8, record: Record) {
        let (syn, syn_ack) = (flags & SYN != 0 && record.syn, flags & SYN != 0 && !record.syn);
        self.add(from, to, 6, at_ns, Record { tcp_flags: flags, syn, syn_ack, ..record });
    }

    /// A connection of `seconds` in which the server sends so many bytes.
    pub(super) fn talk(&mut self, client: IpAddr, server: IpAddr, port: u16, at_ns: u64, seconds: f64, bytes: u64) {
        let from = (client, self.next_port());
        let last_ns = at_ns + (seconds * 1e9) as u64;
        let flags = SYN | ACK | PSH | FIN;
        // The first records come with the next sweep, the last when it is over.
        for (flags, first_ns, last_ns) in
            [(SYN | ACK, at_ns, at_ns + S / 2), (flags, at_ns + S / 2, last_ns.max(at_ns + S / 2))]
        {
            let of = |syn, packets, bytes| Record { packets, bytes, first_ns, last_ns, syn, ..Record::default() };
            self.segment(from, (server, port), last_ns, flags, of(true, 4, 300));
            self.segment(
                (server, port),
                from,
                last_ns,
                flags,
                Record { hook: Hook::Egress, ..of(false, 4, bytes / 2) },
            );
        }
    }

    pub(super) fn refused(&mut self, client: IpAddr, server: IpAddr, port: u16, at_ns: u64) {
        let from = (client, self.next_port());
        self.segment(from, (server, port), at_ns, SYN, Record { syn: true, ..Record::default() });
        let rst = Record { hook: Hook::Egress, cause: Cause::Urgent, ..Record::default() };
        self.segment((server, port), from, at_ns, RST | ACK, rst);
    }

    pub(super) fn silent(&mut self, client: IpAddr, server: IpAddr, port: u16, at_ns: u64) {
        let from = (client, self.next_port());
        self.segment(from, (server, port), at_ns, SYN, Record { syn: true, ..Record::default() });
    }

    /// A connection that stays half open.
    pub(super) fn half_open(&mut self, client: IpAddr, server: IpAddr, port: u16, at_ns: u64) {
        let from = (client, self.next_port());
        self.segment(from, (server, port), at_ns, SYN, Record { syn: true, ..Record::default() });
        self.segment((server, port), from, at_ns, SYN | ACK, Record { hook: Hook::Egress, ..Record::default() });
    }

    /// A segment with these flags, which a closed port answers.
    pub(super) fn probe(&mut self, client: IpAddr, server: IpAddr, port: u16, at_ns: u64, flags: u8, closed: bool) {
        let from = (client, self.next_port());
        self.segment(from, (server, port), at_ns, flags, Record { syn: true, ..Record::default() });
        if closed {
            let rst = Record { hook: Hook::Egress, cause: Cause::Urgent, ..Record::default() };
            self.segment((server, port), from, at_ns, RST | ACK, rst);
        }
    }

    /// A datagram, and what comes of it: an answer, or nothing.
    pub(super) fn datagram(&mut self, client: IpAddr, server: IpAddr, port: u16, at_ns: u64, answered: bool) {
        let from = (client, self.next_port());
        self.add(from, (server, port), 17, at_ns, Record { first: true, ..Record::default() });
        if answered {
            self.add((server, port), from, 17, at_ns, Record { hook: Hook::Egress, ..Record::default() });
        }
    }

    /// A datagram to a port that is unreachable.
    pub(super) fn unreachable(&mut self, client: IpAddr, server: IpAddr, port: u16, at_ns: u64) {
        let from = (client, self.next_port());
        self.add(from, (server, port), 17, at_ns, Record { first: true, ..Record::default() });
        let (icmp_type, icmp_code) = if client.is_ipv6() { (1, 4) } else { (3, 3) };
        let quote = Record { icmp_type, icmp_code, cause: Cause::Quoted, hook: Hook::Egress, ..Record::default() };
        self.add(from, (server, port), 17, at_ns, quote);
    }

    pub(super) fn ping(&mut self, client: IpAddr, server: IpAddr, at_ns: u64, answered: bool) {
        let id = self.next_port();
        let (protocol, request, reply) = if client.is_ipv6() { (58, 128, 129) } else { (1, 8, 0) };
        self.add((client, id), (server, id), protocol, at_ns, Record { icmp_type: request, ..Record::default() });
        if answered {
            let reply = Record { icmp_type: reply, hook: Hook::Egress, ..Record::default() };
            self.add((server, id), (client, id), protocol, at_ns, reply);
        }
    }
}
