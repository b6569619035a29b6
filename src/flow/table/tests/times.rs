//! The times that are measured for a flow, and those that are left out.

use super::*;
use crate::bpf::{App, Facts, Measure, Sample};
use crate::flow::Details;

const MS: u64 = 1_000_000;

fn with_samples(record: Record, samples: &[(Measure, u64)]) -> Record {
    let samples: Vec<Sample> = samples.iter().map(|&(measure, ms)| Sample { measure, ns: ms * MS }).collect();
    Record { facts: Some(Facts::of_samples(&samples)), ..record }
}

fn client(samples: &[(Measure, u64)]) -> Record {
    with_samples(packet(1, 101), samples)
}

fn server(samples: &[(Measure, u64)]) -> Record {
    with_samples(reply(packet(1, 101)), samples)
}

fn details(records: &[Record]) -> (Details, usize) {
    let (table, log) = run(records);
    let details = table.iter().next().unwrap().details.as_ref().unwrap();
    (Details::clone(details), log.measured.len())
}

#[test]
fn a_handshake_and_its_halves() {
    let client = client(&[(Measure::HandshakeClient, 4), (Measure::Connect, 14)]);
    let server = server(&[(Measure::HandshakeServer, 10)]);
    for order in [[&client, &server], [&server, &client]] {
        let (details, measured) = details(&order.map(Record::clone));
        assert_eq!(details.connect_ns, Some(14 * MS));
        assert_eq!((details.handshake_client_ns, details.handshake_server_ns), (Some(4 * MS), Some(10 * MS)));
        assert_eq!(measured, 3);
    }
}

/// A lone ACK may be a delayed one: it is left out if it takes much longer than the shortest round trip to its end.
#[test]
fn delayed_acks_are_no_round_trips() {
    let (seen, measured) = details(&[
        client(&[(Measure::HandshakeClient, 1)]),
        server(&[(Measure::HandshakeServer, 80)]),
        // The server is far away: its ACKs are as late as its SYN-ACK.
        server(&[(Measure::RttLone, 81), (Measure::RttLone, 99), (Measure::RttLone, 120)]),
        client(&[(Measure::RttLone, 2), (Measure::RttLone, 41)]),
        // An ACK of two full segments was not delayed.
        client(&[(Measure::Rtt, 41)]),
    ]);
    assert_eq!((seen.rtt.count, seen.rtt.min_ns, seen.rtt.max_ns), (4, 2 * MS, 99 * MS));
    assert_eq!(measured, 6, "samples that are left out are left out of the metrics too");
    let (seen, _) = details(&[client(&[(Measure::RttLone, 41)])]);
    assert_eq!(seen.rtt.count, 1, "nothing else is known");
}

/// An ACK that waited for data to carry it is a round trip only if the data came at once.
#[test]
fn acks_that_ride_on_answers_are_no_round_trips() {
    let (seen, measured) = details(&[
        client(&[(Measure::HandshakeClient, 1)]),
        server(&[(Measure::HandshakeServer, 20)]),
        server(&[(Measure::RttWaited, 21), (Measure::RttWaited, 25), (Measure::RttWaited, 26)]),
        client(&[(Measure::RttWaited, 1), (Measure::RttWaited, 2), (Measure::RttWaited, 15)]),
    ]);
    assert_eq!((seen.rtt.count, seen.rtt.min_ns, seen.rtt.max_ns, measured), (3, MS, 25 * MS, 5));
    // The path got longer, as two full segments show.
    let (seen, _) = details(&[server(&[
        (Measure::HandshakeServer, 1),
        (Measure::Rtt, 100),
        (Measure::RttWaited, 100),
        (Measure::Rtt, 102),
    ])]);
    assert_eq!((seen.rtt.count, seen.rtt.max_ns), (2, 102 * MS));
    let (seen, _) = details(&[client(&[(Measure::RttWaited, 1)])]);
    assert_eq!(seen.rtt.count, 0, "nothing else is known");
}

#[test]
fn a_response_is_the_servers() {
    let (seen, measured) = details(&[
        server(&[(Measure::Response, 30), (Measure::Response, 50), (Measure::Response, 10)]),
        client(&[(Measure::Response, 5000)]),
    ]);
    let stat = seen.response;
    assert_eq!((stat.count, stat.min_ns, stat.max_ns, stat.last_ns), (3, 10 * MS, 50 * MS, 10 * MS));
    assert_eq!((stat.mean_ns(), measured), (30.0 * MS as f64, 4), "another end may prove to be the client");
    // QUIC does not show who asks and who answers.
    let mut quic = server(&[(Measure::Response, 30)]);
    quic.facts.as_mut().unwrap().app = Some(App::Quic);
    assert_eq!(details(&[quic]).0.response.count, 0);
}

/// Each hook measures: what a hook other than the owner measures was measured already.
#[test]
fn another_hook_measures_nothing_new() {
    let mine = server(&[(Measure::Rtt, 3)]);
    let other = Record { ifindex: 8, ..server(&[(Measure::Rtt, 9)]) };
    let (seen, measured) = details(&[mine, other]);
    assert_eq!((seen.rtt.count, seen.rtt.max_ns, measured), (1, 3 * MS, 1));
}

#[test]
fn troubles_belong_to_the_sender() {
    let mut record = client(&[]);
    let facts = record.facts.as_mut().unwrap();
    (facts.retransmits, facts.out_of_order, facts.duplicate_acks) = (1, 2, 3);
    (facts.zero_windows, facts.resets, facts.tls) = (4, 5, 4);
    let (table, _) = run(&[record.clone(), reply(packet(1, 101)), record]);
    let flow = table.iter().next().unwrap();
    let troubles = flow.details.as_ref().unwrap().troubles;
    let [client, server] = [flow.client, 1 - flow.client].map(|end| troubles[usize::from(end)]);
    assert_eq!((client.retransmits, client.out_of_order, client.duplicate_acks), (2, 4, 6));
    assert_eq!((client.zero_windows, client.resets, server.resets), (8, 10, 0));
    assert_eq!(flow.tls_version(), Some("1.3"));
}

/// The two directions of a connection are reported in any order.
#[test]
fn the_latest_round_trip_is_the_latest_by_time() {
    let (mut table, mut log) = (table(10), Log::default());
    let sample = |second: u64, ns: u64| {
        let sample = Sample { measure: Measure::Rtt, ns };
        Record { facts: Some(Facts::of_samples(&[sample])), ..packet(0, second) }
    };
    table.merge(&sample(105, 7), &mut log);
    table.merge(&sample(103, 9), &mut log);
    let rtt = table.iter().next().unwrap().details.as_ref().unwrap().rtt;
    assert_eq!((rtt.count, rtt.min_ns, rtt.max_ns, rtt.last_ns), (2, 7, 9, 7));
}
