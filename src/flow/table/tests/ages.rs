//! Flows that get old, and bounds that change.

use super::*;
use crate::flow::CLIENT_IS_KNOWN;

fn limits(max_flows: usize, timeout: u64, max_age: Option<u64>) -> TableLimits {
    TableLimits {
        max_flows,
        flow_timeout: Duration::from_secs(timeout),
        connect_timeout: Duration::from_secs(30),
        max_age: max_age.map(Duration::from_secs),
    }
}

/// A packet from the server to the client.
fn answer(port: u16, second: u64) -> Record {
    let mut record = packet(port, second);
    std::mem::swap(&mut record.source, &mut record.destination);
    record.hook = Hook::Ingress;
    record
}

#[test]
fn an_old_flow_is_closed_and_goes_on_as_a_new_one() {
    let mut log = Log::default();
    let mut table = Table::new(limits(10, 300, Some(30)), 100 * SECOND);
    // The server's port is the higher one: only the SYN shows that it is the server.
    let (mut first, mut back) = (packet(1, 100), answer(1, 100));
    first.destination.port = 9999;
    back.source.port = 9999;
    let open = Record { syn: true, tcp_flags: 2, ..first.clone() };
    table.merge(&open, &mut log);
    for second in 101..=220 {
        let at = second * SECOND;
        table.merge(&Record { first_ns: at, last_ns: at, ..first.clone() }, &mut log);
        table.merge(&Record { first_ns: at, last_ns: at, ..back.clone() }, &mut log);
        table.expire(at, &mut log);
        let flow = table.iter().next().unwrap();
        assert!(
            table.len() == 1 && at - flow.first_ns <= 31 * SECOND,
            "{second}: {} s old",
            (at - flow.first_ns) / SECOND
        );
        assert_eq!((flow.has(CLIENT_IS_KNOWN), flow.endpoint(usize::from(flow.client)).port), (true, 4001), "{second}");
    }
    assert_eq!(log.ended.len(), 3, "{:?}", log.ended);
    assert!(log.ended.iter().all(|outcome| *outcome == Outcome::Ok), "{:?}", log.ended);
    assert_eq!((log.sent, log.duplicate), (241, 0), "all packets are accounted for");
}

#[test]
fn an_old_flow_that_is_silent_is_closed_too() {
    let mut log = Log::default();
    let mut table = Table::new(limits(10, 300, Some(30)), 100 * SECOND);
    table.merge(&packet(1, 100), &mut log);
    table.merge(&answer(1, 100), &mut log);
    table.expire(129 * SECOND, &mut log);
    assert_eq!(log.ended.len(), 0);
    table.expire(136 * SECOND, &mut log);
    assert_eq!(log.ended.len(), 1);
    table.expire(150 * SECOND, &mut log);
    assert!(table.is_empty());
}

#[test]
fn a_shorter_timeout_holds_for_flows_that_are_there() {
    let mut log = Log::default();
    let mut table = Table::new(limits(10, 300, None), 100 * SECOND);
    for port in 0..5 {
        table.merge(&packet(port, 100), &mut log);
        table.merge(&answer(port, 100), &mut log);
    }
    table.set_limits(limits(10, 20, None), &mut log);
    table.expire(119 * SECOND, &mut log);
    assert_eq!(log.ended.len(), 0);
    table.expire(126 * SECOND, &mut log);
    assert_eq!(log.ended.len(), 5);
    table.expire(140 * SECOND, &mut log);
    assert!(table.is_empty());
}

#[test]
fn a_longer_timeout_holds_for_flows_that_are_there() {
    let mut log = Log::default();
    let mut table = Table::new(limits(10, 20, None), 100 * SECOND);
    table.merge(&packet(1, 100), &mut log);
    table.merge(&answer(1, 100), &mut log);
    for _ in 0..100 {
        table.set_limits(limits(10, 300, None), &mut log);
    }
    table.expire(200 * SECOND, &mut log);
    assert_eq!(log.ended.len(), 0);
    table.expire(410 * SECOND, &mut log);
    assert_eq!(log.ended.len(), 1);
}

#[test]
fn a_lower_bound_makes_room_at_once() {
    let mut log = Log::default();
    let mut table = Table::new(limits(10, 300, None), 100 * SECOND);
    for port in 0..10 {
        table.merge(&packet(port, 100 + u64::from(port)), &mut log);
    }
    table.set_limits(limits(4, 300, None), &mut log);
    let mut left: Vec<u16> = table.iter().map(|flow| flow.endpoint(0).port).collect();
    left.sort_unstable();
    assert_eq!((left, log.evicted.len()), ((4006..4010).collect(), 6), "those that were silent longest go");
}
