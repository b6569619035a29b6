//! Flows that are answered, flows that are not, and the effect of ICMP errors on both, with records in every order.

use super::*;
use crate::bpf::{App, Facts};
use crate::flow::{ErrorKind, State};

const UDP: u8 = 17;
const OK: Outcome = Outcome::Ok;

fn failed(reason: Reason) -> Outcome {
    Outcome::Failed(reason)
}

fn udp() -> Record {
    Record { protocol: UDP, tcp_flags: 0, ..packet(1, 101) }
}

/// A DNS query of the client.
fn dns() -> Record {
    let mut facts = Facts::default();
    facts.app = Some(App::Dns);
    Record { facts: Some(facts), ..udp() }
}

fn echo(icmp_type: u8) -> Record {
    let same = |e: Endpoint| Endpoint { port: 7, ..e };
    let (source, destination) = (same(end(1, 0)), same(end(2, 0)));
    let request = Record { protocol: 1, icmp_type: 8, tcp_flags: 0, source, destination, ..packet(1, 101) };
    if icmp_type == 8 { request } else { Record { icmp_type, ..reply(request) } }
}

/// An ICMP error that quotes a packet of the record.
fn error(about: &Record, icmp_type: u8, icmp_code: u8) -> Record {
    Record {
        cause: Cause::Quoted,
        packets: 0,
        bytes: 0,
        tcp_flags: 0,
        syn: false,
        icmp_type,
        icmp_code,
        ..about.clone()
    }
}

fn elsewhere(record: Record) -> Record {
    let hook = if record.hook == Hook::Egress { Hook::Ingress } else { Hook::Egress };
    Record { ifindex: 8, hook, ..record }
}

/// All orders of a few records.
fn orders(records: &[Record]) -> Vec<Vec<Record>> {
    if records.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for i in 0..records.len() {
        let mut rest = records.to_vec();
        let first = rest.remove(i);
        all.extend(orders(&rest).into_iter().map(|order| [std::slice::from_ref(&first), &order[..]].concat()));
    }
    all
}

/// Asserts that in every order, the flow ends with this outcome within this many seconds, and that its errors are
/// counted once.
fn assert_end(records: &[Record], seconds: u64, outcome: Outcome, state: State, errors: &[ErrorKind]) {
    for order in orders(records) {
        let (mut table, mut log) = run(&order);
        assert_eq!((table.len(), table.iter().next().unwrap().state()), (1, state), "{order:#?}");
        // Nothing is judged before late records had time to arrive.
        table.expire(103 * SECOND, &mut log);
        assert_eq!(log.ended, [], "{order:#?}");
        for second in 103..101 + seconds {
            table.expire(second * SECOND, &mut log);
        }
        assert_eq!((log.ended.as_slice(), log.errors.as_slice()), (&[outcome][..], errors), "{order:#?}");
        table.expire(2000 * SECOND, &mut log);
        table.expire(2010 * SECOND, &mut log);
        assert_eq!((table.len(), log.ended.len()), (0, 1));
    }
}

const SOON: u64 = 8;
/// Seconds: `connect_timeout` and `flow_timeout`, plus the time for late records.
const PATIENT: u64 = 37;
const LONG: u64 = 310;

#[test]
fn an_error_is_the_answer_to_an_opening() {
    for (icmp_type, icmp_code, outcome, kind) in [
        (3, 0, failed(Reason::Unreachable), ErrorKind::NetUnreachable),
        (3, 1, failed(Reason::Unreachable), ErrorKind::HostUnreachable),
        (3, 13, failed(Reason::Unreachable), ErrorKind::AdminProhibited),
        (11, 0, failed(Reason::Unreachable), ErrorKind::TimeExceeded),
        (3, 3, failed(Reason::Refused), ErrorKind::PortUnreachable),
    ] {
        let check = |opening: Record, state| {
            let error = error(&opening, icmp_type, icmp_code);
            // The error passes two interfaces, as the packet did.
            let all = [opening.clone(), elsewhere(opening), error.clone(), elsewhere(error)];
            assert_end(&all, SOON, outcome, state, &[kind]);
        };
        check(syn(1, 101), State::SynSent);
        check(udp(), State::Unanswered);
    }
}

/// A sender that ignores the error repeats the SYN: that is the same attempt.
#[test]
fn a_syn_sent_again_after_the_error_is_no_new_flow() {
    let mut facts = Facts::default();
    facts.retransmits = 1;
    let again = Record { facts: Some(facts), ..syn(1, 103) };
    let (mut table, mut log) = run(&[syn(1, 101), error(&syn(1, 101), 3, 1), again]);
    table.expire(115 * SECOND, &mut log);
    assert_eq!(log.ended, [failed(Reason::Unreachable)]);
    table.merge(&syn(1, 116), &mut log);
    table.expire(160 * SECOND, &mut log);
    assert_eq!(log.ended, [failed(Reason::Unreachable), failed(Reason::Timeout)], "a new SYN is a new flow");
}

#[test]
fn too_big_is_no_failure() {
    let too_big = |about: &Record| error(about, 3, 4);
    assert_end(
        &[syn(1, 101), too_big(&syn(1, 101))],
        PATIENT,
        failed(Reason::Timeout),
        State::SynSent,
        &[ErrorKind::TooBig],
    );
    assert_end(&[udp(), too_big(&udp())], LONG, OK, State::Unanswered, &[ErrorKind::TooBig]);
    // It does not hide a failure either.
    let both = [syn(1, 101), error(&syn(1, 101), 3, 1), too_big(&syn(1, 101))];
    for order in orders(&both) {
        let (mut table, mut log) = run(&order);
        table.expire(110 * SECOND, &mut log);
        assert_eq!(log.ended, [failed(Reason::Unreachable)]);
    }
}

/// RFC 5461: for an established connection, errors are soft.
#[test]
fn an_answer_overrules_an_error() {
    let gone = |about: &Record| error(about, 3, 3);
    let error = |about: &Record| error(about, 3, 1);
    let kinds = &[ErrorKind::HostUnreachable];
    let connection = [syn(1, 101), syn_ack(1, 101), packet(1, 101), error(&packet(1, 101))];
    assert_end(&connection, LONG, OK, State::Established, kinds);
    assert_end(&[udp(), reply(udp()), error(&udp())], LONG, OK, State::Answered, kinds);
    // A client that continues was answered, whether the answer was seen or not.
    assert_end(&[syn(1, 101), packet(1, 101), error(&packet(1, 101))], LONG, OK, State::Established, kinds);
    // The sender of the datagrams is gone when the answer comes.
    assert_end(&[udp(), reply(udp()), gone(&reply(udp()))], LONG, OK, State::Answered, &[ErrorKind::PortUnreachable]);
}

#[test]
fn a_question_without_an_answer_times_out() {
    assert_end(&[syn(1, 101)], PATIENT, failed(Reason::Timeout), State::SynSent, &[]);
    assert_end(&[dns(), udp()], PATIENT, failed(Reason::Timeout), State::Unanswered, &[]);
    assert_end(&[dns(), reply(udp())], LONG, OK, State::Answered, &[]);
    assert_end(&[echo(8)], PATIENT, failed(Reason::Timeout), State::Unanswered, &[]);
    assert_end(&[echo(8), echo(0)], LONG, OK, State::Answered, &[]);
    // Datagrams may need no answer.
    assert_end(&[udp()], LONG, OK, State::Unanswered, &[]);
}

#[test]
fn the_client_of_a_tunnel_is_the_sender() {
    for app in [App::Vxlan, App::Geneve] {
        let mut facts = Facts::default();
        facts.app = Some(app);
        let ends = (end(1, 2188), end(2, 6081));
        let (table, _) = run(&[Record { facts: Some(facts), source: ends.0, destination: ends.1, ..udp() }]);
        let flow = table.iter().next().unwrap();
        assert_eq!((flow.endpoint(usize::from(flow.client)), flow.from_client().packets), (ends.0, 1));
    }
}

#[test]
fn the_client_of_an_echo_sends_the_request() {
    for order in orders(&[echo(8), echo(0)]) {
        let (table, _) = run(&order);
        let flow = table.iter().next().unwrap();
        assert_eq!((flow.endpoint(usize::from(flow.client)), flow.direction), (end(1, 7), Direction::Egress));
    }
    // An ICMP error of the same protocol is no echo.
    let (table, mut log) = run(&[Record { icmp_type: 3, icmp_code: 1, ..echo(8) }]);
    let mut table = table;
    table.expire(405 * SECOND, &mut log);
    assert_eq!(log.ended, [OK]);
}

#[test]
fn errors_about_unknown_flows_make_no_flows() {
    let (mut table, mut log) = (table(100_000), Log::default());
    for port in 0..5000 {
        table.merge(&error(&packet(port, 101), 3, 1), &mut log);
    }
    assert_eq!((table.len(), table.errors_lost(), log.errors.len()), (0, 5000 - 4096, 0));
    // Errors that wait are dropped after a while.
    for port in 0..5000 {
        table.merge(&error(&packet(port, 110), 3, 1), &mut log);
    }
    assert_eq!(table.errors_lost(), 2 * (5000 - 4096));
    table.merge(&syn(1, 120), &mut log);
    assert_eq!((table.len(), log.errors.len()), (1, 0), "an old error belongs to another flow");
}

/// Of which only one end is seen: what goes on without an answer, or answers without a question. A SYN may still be answered.
#[test]
fn connections_of_which_one_end_is_seen() {
    let is = |records: &[Record]| run(records).0.iter().next().unwrap().is_one_sided();
    let goes_on = Record { packets: 3, ..packet(1, 101) };
    assert!(!is(&[syn(1, 100)]));
    assert!(is(&[syn(1, 100), goes_on.clone()]));
    assert!(is(&[reply(goes_on.clone())]));
    assert!(!is(&[syn(1, 100), syn_ack(1, 100), goes_on.clone()]));
    assert!(!is(&[Record { protocol: 17, tcp_flags: 0, ..goes_on }]));
}
