//! Flows follow the capture's clock: when they start, end, time out and begin again.

use serde_json::Value;

use super::nanoseconds;
use super::written::{CLIENT, Connection, MS, S, SERVER, START, Written};
use crate::needs_root;
use crate::support::packet::ACK;

/// Start and end of each flow after the start of the capture, and its outcome.
fn lives(flows: &[Value]) -> Vec<(u64, u64, String)> {
    let since = |time: &Value| nanoseconds(time) - START;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let fate = |f: &Value| [text(&f["status"]), text(&f["reason"])].join(" ").trim_end().to_owned();
    flows.iter().map(|f| (since(&f["start"]), since(&f["end"]), fate(f))).collect()
}

fn life(start: u64, end: u64, fate: &str) -> (u64, u64, String) {
    (start, end, fate.to_owned())
}

/// The programs keep times in 32 bits of nanoseconds: gaps around their range of 4.29 s, and more than one sweep apart.
#[test]
fn times_are_exact_over_any_gap() {
    needs_root!();
    for gap in [0, 1, S - 1, S, S + 1, 2 * S, 3 * S + 7, 4 * S, 4_294_967_295, 4_294_967_296, 5 * S, 100 * S + 3] {
        let mut capture = Written::default();
        let mut c = Connection::new(40000);
        capture.handshake(0, &mut c, MS, MS);
        capture.tcp(3 * MS, CLIENT, &mut c, ACK | 8, 10);
        let mut at = 3 * MS;
        for _ in 0..20 {
            at += gap;
            capture.tcp(at, SERVER, &mut c, ACK | 8, 10);
            capture.udp(at + 5, CLIENT, 50000, 20); // lets the time pass
        }
        capture.close(at + MS, &mut c);
        let flows = capture.replay();
        let tcp: Vec<_> = flows.iter().filter(|f| f["protocol"] == "tcp").cloned().collect();
        assert_eq!(lives(&tcp), [life(0, at + 3 * MS, "ok")], "gap of {gap} ns");
        assert_eq!((&tcp[0]["client_packets"], &tcp[0]["server_packets"]), (&5.into(), &22.into()));
        assert_eq!(tcp[0]["duration_s"].as_f64().unwrap(), (at + 3 * MS) as f64 / 1e9);
    }
}

#[test]
fn a_long_flow_is_one() {
    needs_root!();
    let mut capture = Written::default();
    for n in 0..3000u64 {
        capture.udp(n * 333 * MS, (n % 2) as usize, 50001, 100);
        capture.udp(n * 333 * MS + 1, CLIENT, 40000 + n as u16, 100);
    }
    let flows = capture.replay();
    let long = flows.iter().find(|f| f["client_port"] == 50001).unwrap();
    assert_eq!(lives(std::slice::from_ref(long)), [life(0, 2999 * 333 * MS, "active")]);
    assert_eq!((&long["client_packets"], &long["server_packets"]), (&1500.into(), &1500.into()));
    assert_eq!(flows.len(), 3001);
    let starts: Vec<_> = flows.iter().map(|f| nanoseconds(&f["start"])).collect();
    assert!(starts.is_sorted(), "printed in the order of their start");
    let ids: Vec<_> = flows.iter().map(|f| f["id"].as_u64().unwrap()).collect();
    assert!(ids.iter().copied().eq(1..=3001));
}

/// A flow that is idle for five minutes is over. Later packets belong to another flow.
#[test]
fn silence_ends_a_flow() {
    needs_root!();
    let mut capture = Written::default();
    for start in [0, 200 * S, 700 * S] {
        capture.udp(start, CLIENT, 50000, 30);
        capture.udp(start + MS, SERVER, 50000, 60);
    }
    assert_eq!(lives(&capture.replay()), [life(0, 200 * S + MS, "ok"), life(700 * S, 700 * S + MS, "active")]);
}

#[test]
fn unanswered_connections_time_out_in_the_capture() {
    needs_root!();
    let mut capture = Written::default();
    for (port, at) in [(1, 0), (2, 29 * S), (3, 31 * S)] {
        capture.tcp(at, CLIENT, &mut Connection::new(40000 + port), 2, 0);
    }
    capture.udp(60 * S, CLIENT, 50000, 10);
    let fates = [life(0, 0, "failed timeout"), life(29 * S, 29 * S, "failed timeout"), life(31 * S, 31 * S, "active")];
    assert_eq!(lives(&capture.replay())[..3], fates);
}

#[test]
fn flows_that_are_open_at_the_end_are_active() {
    needs_root!();
    let mut capture = Written::default();
    let (mut open, mut closed, mut reset) = (Connection::new(40001), Connection::new(40002), Connection::new(40003));
    capture.handshake(0, &mut open, MS, MS);
    capture.handshake(10 * MS, &mut closed, MS, MS);
    capture.handshake(20 * MS, &mut reset, MS, MS);
    capture.close(30 * MS, &mut closed);
    capture.tcp(35 * MS, CLIENT, &mut reset, ACK | 8, 10);
    capture.tcp(40 * MS, SERVER, &mut reset, 4 | ACK, 0);
    let fates = [life(0, 2 * MS, "active"), life(10 * MS, 32 * MS, "ok"), life(20 * MS, 40 * MS, "failed reset")];
    assert_eq!(lives(&capture.replay()), fates);
}

/// Two connections with the same ports.
#[test]
fn ports_used_again_are_a_new_flow() {
    needs_root!();
    for pause in [10 * MS, 3 * S, 70 * S] {
        let mut capture = Written::default();
        for start in [0, 100 * MS + pause] {
            let mut c = Connection::new(40000);
            capture.handshake(start, &mut c, MS, MS);
            capture.close(start + 50 * MS, &mut c);
        }
        let second = 100 * MS + pause;
        let expected = [life(0, 52 * MS, "ok"), life(second, second + 52 * MS, "ok")];
        assert_eq!(lives(&capture.replay()), expected, "{pause} ns apart");
    }
}

/// With several queues of a NIC, or merged files, times go back a little. Flows keep the times of the capture.
#[test]
fn packets_out_of_order_keep_their_times() {
    needs_root!();
    let mut capture = Written::default();
    for (at, port) in [(900, 1), (500, 2), (901, 1), (100, 3), (1100, 2), (150, 3)] {
        capture.udp(at * MS, CLIENT, 50000 + port, 10);
    }
    let expected =
        [life(100 * MS, 150 * MS, "active"), life(500 * MS, 1100 * MS, "active"), life(900 * MS, 901 * MS, "active")];
    assert_eq!(lives(&capture.replay()), expected);
}

/// Packets whose times go back by more than a second count at the time of the packet before.
#[test]
fn packets_from_long_ago_count_now() {
    needs_root!();
    let mut capture = Written::default();
    for (at, port) in [(10 * S, 1), (2 * S, 2), (11 * S, 1), (MS, 2)] {
        capture.udp(at, CLIENT, 50000 + port, 10);
    }
    let file = capture.file();
    let output = super::run(&["-o", "json", file.0.to_str().unwrap()], &[]);
    let expected = [life(10 * S, 11 * S, "active"), life(10 * S, 11 * S, "active")];
    assert_eq!(lives(&super::flows_of(&output)), expected);
    assert!(super::text(&output.stderr).contains("2 packets are more than a second earlier"));
}

/// A flow whose own times go back.
#[test]
fn a_flow_whose_times_go_back_has_them_all() {
    needs_root!();
    let mut capture = Written::default();
    for at in [500, 400, 300] {
        capture.udp(at * MS, CLIENT, 50000, 10);
    }
    assert_eq!(lives(&capture.replay()), [life(300 * MS, 500 * MS, "active")]);
}
