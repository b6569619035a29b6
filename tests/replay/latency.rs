//! Times in captures written by hand: the printed times are those that were written, to the nanosecond.

use serde_json::{Value, json};

use super::written::{CLIENT, Connection, MS, S, SERVER, Written};
use crate::needs_root;
use crate::support::packet::ACK;

const PSH: u8 = 8;

/// The statistics of a single time in microseconds.
fn once(us: f64) -> Value {
    json!({ "count": 1, "min": us, "mean": us, "max": us, "last": us })
}

fn only(capture: &Written) -> Value {
    let mut flows = capture.replay();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    flows.remove(0)
}

/// Handshakes from a nanosecond to ten seconds.
#[test]
fn handshakes_are_split() {
    needs_root!();
    for (server, client) in [(1, 1), (1_234_567, 333_333), (999_999_999, 1), (5 * S + 1, 2), (3, 9 * S + 999)] {
        let mut capture = Written::default();
        capture.handshake(0, &mut Connection::new(40000), server, client);
        let flow = only(&capture);
        assert_eq!(flow["handshake_server_us"], server as f64 / 1e3, "{flow}");
        assert_eq!(flow["handshake_client_us"], client as f64 / 1e3, "{flow}");
        assert_eq!((&flow["rtt_us"], &flow["response_us"]), (&Value::Null, &Value::Null));
    }
}

/// From the last byte of a request, not its first, to the first of the response, not its last.
#[test]
fn responses_are_timed() {
    needs_root!();
    let (mut capture, mut c) = (Written::default(), Connection::new(40000));
    capture.handshake(0, &mut c, MS, MS);
    let mut at = 10 * MS;
    let times = [5_000_001, 77_777, 4 * S + 1];
    for time in times {
        capture.tcp(at, CLIENT, &mut c, ACK, 1000);
        capture.tcp(at + 100, CLIENT, &mut c, ACK | PSH, 500);
        capture.tcp(at + 100 + time, SERVER, &mut c, ACK, 1000);
        capture.tcp(at + 300 + time, SERVER, &mut c, ACK | PSH, 800);
        capture.tcp(at + 400 + time, CLIENT, &mut c, ACK, 0);
        at += time + 20 * MS;
    }
    capture.close(at, &mut c);
    let flow = only(&capture);
    let mean = times.iter().sum::<u64>() / 3;
    let us = |ns: u64| ns as f64 / 1e3;
    let expected =
        json!({ "count": 3, "min": us(77_777), "mean": us(mean), "max": us(4 * S + 1), "last": us(4 * S + 1) });
    assert_eq!(flow["response_us"], expected);
    assert_eq!(flow["status"], "ok");
}

/// Every segment of a capture is a probe.
#[test]
fn round_trips_are_timed() {
    needs_root!();
    let (mut capture, mut c) = (Written::default(), Connection::new(40000));
    capture.handshake(0, &mut c, MS, MS);
    capture.tcp(10 * MS, CLIENT, &mut c, ACK | PSH, 100);
    capture.tcp(10 * MS + 250_001, SERVER, &mut c, ACK, 0);
    capture.tcp(20 * MS, CLIENT, &mut c, ACK | PSH, 100);
    capture.tcp(20 * MS + 1_750_003, SERVER, &mut c, ACK, 0);
    let flow = only(&capture);
    let expected = json!({ "count": 2, "min": 250.001, "mean": 1000.002, "max": 1750.003, "last": 1750.003 });
    assert_eq!(flow["rtt_us"], expected);
}

/// It is not known which of two segments with the same bytes an ACK acknowledges (Karn).
#[test]
fn a_retransmitted_segment_has_no_round_trip() {
    needs_root!();
    for wait in [300 * MS, 6 * S] {
        let (mut capture, mut c) = (Written::default(), Connection::new(40000));
        capture.handshake(0, &mut c, MS, MS);
        let sequence = c.next[CLIENT];
        capture.tcp(10 * MS, CLIENT, &mut c, ACK | PSH, 100);
        capture.again(10 * MS + wait, CLIENT, &c, sequence, ACK | PSH, 100);
        capture.tcp(11 * MS + wait, SERVER, &mut c, ACK, 0);
        let flow = only(&capture);
        assert_eq!((&flow["client_retransmits"], &flow["server_retransmits"]), (&1.into(), &0.into()), "after {wait}");
        assert_eq!(flow["rtt_us"], Value::Null);
    }
}

/// A connection that is silent for longer than the programs remember it may miss a time, but has no wrong one.
#[test]
fn silence_yields_no_time() {
    needs_root!();
    let (mut capture, mut c) = (Written::default(), Connection::new(40000));
    capture.handshake(0, &mut c, MS, MS);
    for at in [S, 20 * S, 120 * S, 121 * S, 220 * S] {
        capture.tcp(at, CLIENT, &mut c, ACK | PSH, 100);
        capture.tcp(at + 2 * MS, SERVER, &mut c, ACK | PSH, 200);
        capture.tcp(at + 3 * MS, CLIENT, &mut c, ACK, 0);
    }
    let flow = only(&capture);
    let times = &flow["response_us"];
    assert!(times["count"].as_u64().unwrap() >= 3, "{times}");
    assert_eq!((&times["min"], &times["max"]), (&2000.0.into(), &2000.0.into()));
    assert_eq!((&flow["client_retransmits"], &flow["server_retransmits"]), (&0.into(), &0.into()));
}

#[test]
fn datagrams_and_echoes_are_timed() {
    needs_root!();
    let mut capture = Written::default();
    capture.udp(0, CLIENT, 50000, 40);
    capture.udp(7_000_001, SERVER, 50000, 120);
    assert_eq!(only(&capture)["response_us"], once(7000.001));

    let mut capture = Written::default();
    for (sequence, time) in [(1, 100_001), (2, 300_003)] {
        capture.echo(u64::from(sequence) * S, CLIENT, 77, sequence);
        capture.echo(u64::from(sequence) * S + time, SERVER, 77, sequence);
    }
    let flow = only(&capture);
    let expected = json!({ "count": 2, "min": 100.001, "mean": 200.002, "max": 300.003, "last": 300.003 });
    assert_eq!(flow["rtt_us"], expected);
    assert_eq!((flow["icmp_type"].as_u64(), flow["client_ip"].as_str()), (Some(8), Some("10.0.0.1")));
}
