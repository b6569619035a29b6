mod ages;
mod answers;
mod conversations;
mod places;
mod roles;
mod room;
mod times;
mod views;

use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::Outcome;
use super::super::outcome::TCP;
use super::*;
use crate::bpf::{Cause, Endpoint, Facts, Hook, Record, Sample, Sequence};
use crate::flow::{Directory, Reason};

const SECOND: u64 = 1_000_000_000;
const FIN: u8 = 1;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Collects the events that it receives.
#[derive(Default)]
struct Log {
    sent: u64,
    duplicate: u64,
    ended: Vec<Outcome>,
    evicted: Vec<u16>,
    /// How often an end that has sent got labels, or other ones.
    classified: usize,
    errors: Vec<ErrorKind>,
    measured: Vec<Sample>,
}

impl Directory for Log {}

impl Sink for Log {
    type Mark = ();

    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, (): &mut ()) {
        match event {
            FlowEvent::Appeared { .. } => self.classified += 1,
            FlowEvent::Reclassified => self.classified += flow.sent.iter().filter(|sent| sent.packets > 0).count(),
            FlowEvent::Sent { record, .. } => self.sent += record.packets,
            FlowEvent::Duplicate(record) => self.duplicate += record.packets,
            FlowEvent::Measured { sample, .. } => self.measured.push(sample),
            FlowEvent::IcmpError(kind) => self.errors.push(kind),
            FlowEvent::Ended(outcome) => self.ended.push(outcome),
            FlowEvent::Evicted => self.evicted.push(flow.endpoint(1).port),
            _ => {}
        }
    }
}

fn table(max_flows: usize) -> Table {
    let limits = TableLimits {
        max_flows,
        flow_timeout: Duration::from_secs(300),
        connect_timeout: Duration::from_secs(30),
        max_age: None,
    };
    Table::new(limits, 100 * SECOND)
}

fn end(host: u8, port: u16) -> Endpoint {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 0, 0, host]);
    Endpoint { address, port }
}

/// One packet of 100 bytes at `second`, from port 4000 and `port` of 10.0.0.1 to port 80 of 10.0.0.2.
fn packet(port: u16, second: u64) -> Record {
    Record {
        v6: false,
        source: end(1, 4000 + port),
        destination: end(2, 80),
        protocol: TCP,
        ifindex: 7,
        hook: Hook::Egress,
        inner: false,
        vlan: 0,
        inner_vlan: 0,
        packets: 1,
        bytes: 100,
        first_ns: second * SECOND,
        last_ns: second * SECOND,
        tcp_flags: ACK,
        syn: false,
        syn_ack: false,
        cause: Cause::Swept,
        ..Record::default()
    }
}

fn reply(record: Record) -> Record {
    let hook = if record.hook == Hook::Egress { Hook::Ingress } else { Hook::Egress };
    Record { source: record.destination, destination: record.source, hook, ..record }
}

fn syn(port: u16, second: u64) -> Record {
    Record { syn: true, tcp_flags: 2, ..packet(port, second) }
}

fn syn_ack(port: u16, second: u64) -> Record {
    Record { syn_ack: true, tcp_flags: 2 | ACK, ..reply(packet(port, second)) }
}

fn flags(record: Record, flags: u8) -> Record {
    Record { tcp_flags: flags, ..record }
}

fn run(records: &[Record]) -> (Table, Log) {
    let (mut table, mut log) = (table(1000), Log::default());
    for record in records {
        table.merge(record, &mut log);
    }
    (table, log)
}

/// Like `run`, and flows that are over are judged.
fn settled(records: &[Record]) -> (Table, Log) {
    let (mut table, mut log) = run(records);
    let last_ns = records.iter().map(|record| record.last_ns).max().unwrap_or_default();
    table.expire(last_ns + 5 * SECOND, &mut log);
    (table, log)
}

#[test]
fn both_directions_are_one_flow() {
    let (table, log) = run(&[syn(1, 101), syn_ack(1, 101), packet(1, 103)]);
    let flow = table.iter().next().unwrap();
    assert_eq!((table.len(), log.sent, log.duplicate), (1, 3, 0));
    assert_eq!((flow.from_client().packets, flow.from_server().packets), (2, 1));
    assert_eq!((flow.from_client().bytes, flow.direction), (200, Direction::Egress));
    assert_eq!((flow.first_ns, flow.last_ns()), (101 * SECOND, 103 * SECOND));
    assert_eq!(table.counts()[&(TCP, Direction::Egress)], 1);
}

#[test]
fn the_opener_is_the_client_whatever_the_ports() {
    let odd = |r: Record| Record { destination: end(2, 50000), ..r };
    let (table, _) = run(&[odd(syn(1, 101))]);
    assert_eq!(table.iter().next().unwrap().from_client().packets, 1);
    // First seen after its start: the lower port is the server's.
    let (table, _) = run(&[reply(packet(1, 101))]);
    let flow = table.iter().next().unwrap();
    assert_eq!((flow.from_server().packets, flow.direction), (1, Direction::Egress));
    // If only the answer is seen, the client is still the other end.
    let (table, _) = run(&[Record { source: end(2, 50000), ..syn_ack(1, 101) }]);
    assert_eq!(table.iter().next().unwrap().from_server().packets, 1);
}

#[test]
fn the_handshake_corrects_a_guess() {
    // The client's port is the lower one, and the record with the SYN comes last.
    let low = |record: Record| Record { destination: Endpoint { port: 60000, ..record.destination }, ..record };
    let records = [low(packet(1, 102)), low(syn(1, 101))];
    for records in [records.clone(), records.map(|r| Record { hook: Hook::Ingress, ..r })] {
        let direction = if records[0].hook == Hook::Egress { Direction::Egress } else { Direction::Ingress };
        let (table, log) = run(&records);
        let flow = table.iter().next().unwrap();
        assert_eq!((flow.from_client().packets, flow.from_server().packets, flow.direction), (2, 0, direction));
        assert_eq!(table.counts().values().sum::<u64>(), 1);
        assert_eq!(table.counts()[&(TCP, direction)], 1);
        assert_eq!(log.classified, 2, "its series have the direction as a label");
    }
}

#[test]
fn outcomes() {
    let ok = [syn(1, 101), syn_ack(1, 101), flags(packet(1, 102), FIN | ACK), flags(reply(packet(1, 102)), FIN | ACK)];
    assert_eq!(run(&ok).1.ended, [], "more may be on its way");
    assert_eq!(settled(&ok).1.ended, [Outcome::Ok]);
    let refused = [syn(1, 101), flags(reply(packet(1, 101)), RST | ACK)];
    let (mut table, mut log) = run(&refused);
    assert_eq!(log.ended, []);
    table.expire(107 * SECOND, &mut log);
    assert_eq!(log.ended, [Outcome::Failed(Reason::Refused)]);
    let reset = [syn(1, 101), syn_ack(1, 101), flags(packet(1, 102), RST)];
    let (mut table, mut log) = run(&reset);
    assert_eq!(log.ended, []);
    table.expire(107 * SECOND, &mut log);
    assert_eq!((log.ended.as_slice(), table.len()), (&[Outcome::Failed(Reason::ResetByClient)][..], 1));
    // Counted once, even if more comes.
    let after = [&ok[..], &[flags(packet(1, 103), RST)]].concat();
    assert_eq!(settled(&after).1.ended, [Outcome::Ok]);
    let (mut table, mut log) = run(&[syn(1, 101), packet(2, 101)]);
    table.expire(140 * SECOND, &mut log);
    assert_eq!((log.ended.as_slice(), table.len()), (&[Outcome::Failed(Reason::Timeout)][..], 2));
}

#[test]
fn a_flow_that_goes_on_after_its_timeout_is_a_new_one() {
    let (mut table, mut log) = run(&[packet(1, 101)]);
    table.expire(405 * SECOND, &mut log);
    table.merge(&packet(1, 406), &mut log);
    assert_eq!((table.len(), log.ended.as_slice()), (1, &[Outcome::Ok][..]));
    assert_eq!(table.iter().next().unwrap().from_client().packets, 1);
}

/// A RST is reported at once, packets before it only by the next sweep.
#[test]
fn a_rst_may_come_before_what_led_to_it() {
    let refused = [flags(reply(packet(1, 101)), RST | ACK), syn(1, 101)];
    let (mut table, mut log) = run(&refused);
    table.expire(107 * SECOND, &mut log);
    assert_eq!((log.ended.as_slice(), table.len()), (&[Outcome::Failed(Reason::Refused)][..], 1));
    let closed = [flags(packet(1, 101), RST | FIN | ACK), syn(1, 100), flags(syn_ack(1, 100), FIN | ACK)];
    let (table, log) = settled(&closed);
    assert_eq!((log.ended.as_slice(), table.len()), (&[Outcome::Ok][..], 1));
}

#[test]
fn a_port_used_again_is_a_new_flow() {
    let close = [flags(packet(1, 102), FIN | ACK), flags(reply(packet(1, 102)), FIN | ACK)];
    let (table, log) = run(&[&[syn(1, 101)], &close[..], &[syn(1, 104)]].concat());
    assert_eq!((table.len(), log.ended.len()), (1, 1));
    assert_eq!(table.iter().next().unwrap().from_client().packets, 1);
}

#[test]
fn a_port_used_again_within_a_jiffy_is_a_new_flow() {
    let reset = Record { syn: true, ..flags(packet(1, 101), RST | 2) };
    let (table, log) = run(&[reset.clone(), reset.clone(), reset.clone()]);
    assert_eq!((table.len(), log.ended.len()), (1, 2), "the last one may still get another outcome");
    let [first_ns, last_ns] = [reset.first_ns, reset.last_ns].map(|ns| ns - 60_000);
    let better_known = Record { first_ns, last_ns, ..reset.clone() };
    let (table, log) = run(&[reset, better_known.clone(), better_known]);
    assert_eq!((table.len(), log.ended.len()), (1, 2), "the same jiffy by a better estimate");
}

#[test]
fn late_records_belong_to_the_closed_connection() {
    let close = [flags(packet(1, 102), FIN | ACK), flags(reply(packet(1, 102)), FIN | ACK)];
    // Another CPU saw its start, and another hook saw all of it.
    let elsewhere = [syn(1, 101), syn_ack(1, 101)].map(|r| Record { ifindex: 8, ..r });
    let (table, log) = settled(&[&close[..], &[syn(1, 101), syn_ack(1, 101)], &elsewhere].concat());
    assert_eq!((table.len(), log.ended.as_slice()), (1, &[Outcome::Ok][..]));
    assert_eq!((log.sent, log.duplicate), (4, 2));
}

#[test]
fn other_hooks_are_duplicates_until_the_owner_is_silent() {
    let elsewhere = |second| Record { ifindex: 8, ..packet(1, second) };
    let (table, log) = run(&[packet(1, 101), elsewhere(101), packet(1, 105), elsewhere(105), elsewhere(114)]);
    assert_eq!((log.sent, log.duplicate), (2, 3));
    assert_eq!(table.iter().next().unwrap().from_client().ifindex, 7);
    let (table, log) = run(&[packet(1, 101), elsewhere(101), elsewhere(112), packet(1, 112)]);
    assert_eq!((log.sent, log.duplicate), (2, 2));
    assert_eq!(table.iter().next().unwrap().from_client().ifindex, 8);
}

#[test]
fn silent_flows_expire_and_busy_ones_stay() {
    let (mut table, mut log) = run(&[packet(1, 101), packet(2, 101)]);
    for second in (110..900).step_by(10) {
        table.merge(&packet(2, second), &mut log);
        table.expire(second * SECOND, &mut log);
    }
    assert_eq!((table.len(), log.ended.len()), (1, 1));
    table.expire(2000 * SECOND, &mut log);
    assert_eq!((table.len(), log.ended.len()), (1, 2), "it stays for a moment, so that it can be seen");
    table.expire(2010 * SECOND, &mut log);
    assert!(table.is_empty());
    assert_eq!(table.counts()[&(TCP, Direction::Egress)], 0);
}

#[test]
fn closed_flows_linger_for_late_packets() {
    let close = [syn(1, 101), flags(packet(1, 102), FIN | ACK), flags(reply(packet(1, 102)), FIN | ACK)];
    let (mut table, mut log) = run(&close);
    table.expire(106 * SECOND, &mut log);
    table.merge(&packet(1, 106), &mut log);
    assert_eq!((table.len(), log.ended.len(), log.sent), (1, 1, 4));
    table.expire(113 * SECOND, &mut log);
    assert!(table.is_empty());
}

#[test]
fn at_the_bound_the_least_active_flows_go_first() {
    let (mut table, mut log) = (table(3), Log::default());
    table.merge(&packet(1, 101), &mut log);
    table.merge(&packet(2, 101), &mut log);
    table.merge(&syn(3, 101), &mut log); // waits for an answer: goes first
    table.merge(&packet(1, 200), &mut log); // so the second flow is idle for longer
    table.merge(&packet(4, 201), &mut log);
    table.merge(&packet(5, 201), &mut log);
    assert_eq!((log.evicted.as_slice(), table.len()), (&[80, 80][..], 3));
    let mut ports: Vec<u16> = table.iter().map(|f| f.endpoint(0).port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [4001, 4004, 4005]);
    assert_eq!(log.ended, [Outcome::Failed(Reason::Timeout), Outcome::Ok]);
}

#[test]
fn a_flood_of_flows_stays_within_the_bound() {
    let (mut table, mut log) = (table(1000), Log::default());
    for i in 0..200_000u32 {
        let source = Endpoint::of(Ipv4Addr::from_bits(0x0b00_0000 + i).into(), 1000);
        table.merge(&Record { source, ..syn(1, 101 + u64::from(i / 1000)) }, &mut log);
        assert!(table.len() <= 1000);
    }
    assert_eq!((log.evicted.len(), log.sent), (199_003, 200_000), "some room is kept free");
    assert_eq!(size_of::<Flow>(), 144, "a million of them must stay below 180 MB with the index and the marks");
    assert_eq!(size_of::<crate::flow::Details>(), 256, "in addition, for a flow with details");
}

/// If ports do not show it, the end that spoke first is the client; either direction may be reported first.
#[test]
fn who_spoke_first_is_the_client_of_equal_ports() {
    let (mut table, mut log) = (table(10), Log::default());
    let from = |source, destination, second| Record { source, destination, protocol: 17, ..packet(0, second) };
    table.merge(&from(end(2, 9), end(1, 9), 101), &mut log);
    table.merge(&from(end(1, 9), end(2, 9), 100), &mut log);
    table.merge(&from(end(2, 9), end(1, 9), 102), &mut log);
    let flow = table.iter().next().unwrap();
    assert_eq!((flow.client, flow.direction), (0, Direction::Egress));
    assert_eq!((flow.from_client().packets, flow.from_server().packets), (1, 2));
}

/// A packet that an error quotes was counted before.
#[test]
fn quoted_packets_are_not_counted() {
    let (mut table, mut log) = (table(10), Log::default());
    table.merge(&packet(0, 100), &mut log);
    for port in 0..2 {
        table.merge(&Record { cause: Cause::Quoted, packets: 0, ..packet(port, 105) }, &mut log);
    }
    assert_eq!(table.len(), 1);
    assert_eq!(table.iter().next().unwrap().last_ns(), 100 * SECOND);
}

#[test]
fn a_workload_of_this_node_opened_it_whichever_end_was_seen_first() {
    let at = |ifindex, hook, record: Record| Record { ifindex, hook, ..record };
    // From pod to pod: at the client's link it enters the host, at the server's it leaves.
    let (client, server) = (at(1, Hook::Ingress, syn(1, 200)), at(2, Hook::Egress, syn(1, 200)));
    for order in [[&client, &server], [&server, &client]] {
        let mut table = table(10);
        table.face(Facing::new([1, 2].into_iter().collect()));
        order.into_iter().for_each(|record| table.merge(record, &mut Log::default()));
        assert_eq!(table.iter().next().unwrap().direction, Direction::Egress);
        assert_eq!((table.counts()[&(TCP, Direction::Egress)], table.counts().values().sum::<u64>()), (1, 1));
    }
    let mut table = table(10);
    table.face(Facing::new([2].into_iter().collect()));
    // From outside: the packet enters the host at the uplink.
    [&server, &client].into_iter().for_each(|record| table.merge(record, &mut Log::default()));
    assert_eq!(table.iter().next().unwrap().direction, Direction::Ingress);
}

/// The error is reported at once, the SYNs sent before it only by the next sweep: they are no new connection.
#[test]
fn syns_reported_after_the_error_that_ended_them_belong_to_the_same_flow() {
    let (mut table, mut log) = (table(10), Log::default());
    let syns = |first: u64, last: u64| Record { syn: true, tcp_flags: 2, last_ns: last * SECOND, ..packet(0, first) };
    let unreachable = Record { cause: Cause::Quoted, packets: 0, icmp_type: 3, icmp_code: 1, ..packet(0, 104) };
    table.merge(&syns(101, 101), &mut log);
    table.merge(&unreachable, &mut log);
    table.merge(&syns(102, 103), &mut log);
    assert_eq!((table.len(), log.classified), (1, 1));
    table.merge(&syns(105, 105), &mut log);
    assert_eq!((table.len(), log.classified, log.ended.len()), (1, 2, 1), "a SYN after the error is a new attempt");
}

/// Each CPU has records of its own: the one with the SYN may come last.
#[test]
fn the_outcome_waits_until_the_client_is_known() {
    let (mut table, mut log) = (table(10), Log::default());
    // By its port, the server would be the client.
    let closed = |record: Record| flags(record, ACK | FIN);
    let far = |record: Record| Record { destination: end(2, 50051), ..record };
    table.merge(&closed(far(packet(0, 100))), &mut log);
    table.merge(&closed(reply(far(packet(0, 100)))), &mut log);
    assert_eq!((table.iter().next().unwrap().direction, log.ended.len()), (Direction::Ingress, 0), "a guess");
    table.merge(&far(syn(0, 99)), &mut log);
    table.expire(105 * SECOND, &mut log);
    assert_eq!((table.iter().next().unwrap().direction, &log.ended[..]), (Direction::Egress, &[Outcome::Ok][..]));

    // First seen after its start: no record shows it.
    let (mut table, mut log) = (self::table(10), Log::default());
    table.merge(&closed(packet(0, 100)), &mut log);
    table.merge(&closed(reply(packet(0, 100))), &mut log);
    table.expire(110 * SECOND, &mut log);
    assert_eq!(log.ended, [Outcome::Ok]);
}
