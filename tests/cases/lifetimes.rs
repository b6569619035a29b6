//! What is known about a connection lives as long as it is needed.

use serde_json::{Value, json};

use super::flows;
use super::roles::served_at;
use crate::needs_root;
use crate::replay::written::{CLIENT, Connection, MS, S, SERVER, Written};
use crate::replay::{flows_of, run};
use crate::support::packet::ACK;

const PSH: u8 = 8;
const RST: u8 = 4;

fn of_port(flows: &[Value], port: u16) -> Vec<&Value> {
    flows.iter().filter(|flow| flow["client_port"] == port || flow["server_port"] == port).collect()
}

fn fate(flow: &Value) -> (&str, &str) {
    (flow["status"].as_str().unwrap(), flow["reason"].as_str().unwrap_or_default())
}

/// Pauses of 400 s, while flows end after 300 s of silence; those of port 49501 are 200 s.
#[test]
fn the_protocol_outlives_a_pause() {
    needs_root!();
    let flows = flows("idle_app.pcap");
    for (port, app, parts) in [(49500, "postgres", 4), (49501, "postgres", 1), (49502, "redis", 4), (49503, "http", 4)]
    {
        let of_port = of_port(&flows, port);
        assert_eq!(of_port.len(), parts, "{port}");
        assert!(of_port.iter().all(|flow| flow["app_protocol"] == app && fate(flow).0 == "ok"), "{of_port:#?}");
    }
    let dns: Vec<_> = flows.iter().filter(|flow| flow["server_port"] == 53).collect();
    assert!(dns.iter().all(|flow| flow["app_protocol"] == "dns"), "{dns:#?}");
    let fates: Vec<_> = dns.iter().map(|flow| fate(flow)).collect();
    assert_eq!(fates, [("ok", ""), ("ok", ""), ("ok", ""), ("failed", "timeout")], "the last query has no answer");
}

#[test]
fn the_protocol_outlives_the_maximum_age() {
    needs_root!();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/inputs/max_age.pcap");
    let flows = flows_of(&run(&["-o", "json", "--set", "flow.max_age=100s", file], &[]));
    let apps: Vec<_> = flows.iter().map(|flow| &flow["app_protocol"]).collect();
    assert_eq!(apps, [&json!("http"); 3]);
}

#[test]
fn the_client_outlives_a_pause() {
    needs_root!();
    let flows = flows("idle_roles.pcap");
    let tcp: Vec<_> = flows.iter().filter(|flow| flow["protocol"] == "tcp").collect();
    assert_eq!(tcp.len(), 9);
    for flow in tcp {
        assert_eq!(flow["client_ip"], "192.0.2.10", "{flow}");
        let response = flow["response_us"]["mean"].as_f64().unwrap();
        assert!((5000.0..6100.0).contains(&response), "{flow}");
    }
}

/// After a pause, the server speaks first, at ports that do not show which end it is; a flow of datagrams continues in
/// the same way.
#[test]
fn the_server_may_speak_first_after_a_pause() {
    needs_root!();
    let mut capture = Written::default();
    let mut c = Connection::new(50_000);
    capture.handshake(0, &mut c, MS, MS);
    capture.tcp(3 * MS, SERVER, &mut c, ACK | PSH, 10);
    capture.tcp(700 * S, SERVER, &mut c, ACK | PSH, 10);
    let flows = capture.each(|packet| served_at(packet, 50_051)).replay();
    assert_eq!(flows.iter().map(|flow| &flow["client_port"]).collect::<Vec<_>>(), [50_000, 50_000]);

    let mut capture = Written::default();
    capture.udp(0, CLIENT, 50, 10);
    capture.udp(MS, SERVER, 50, 10);
    capture.udp(700 * S, SERVER, 50, 10);
    assert_eq!(capture.replay().iter().map(|flow| &flow["client_port"]).collect::<Vec<_>>(), [50, 50]);
}

/// SYNs at 0, 1, 3, 7, 15, 31 and 65 s, as Linux sends them: without an answer, and with an answer to the last.
#[test]
fn repeated_syns_are_one_attempt() {
    needs_root!();
    let flows = flows("syn_backoff.pcap");
    let [lost, late] = [49400, 49401].map(|port| of_port(&flows, port));
    assert_eq!((lost.len(), late.len()), (1, 1));
    assert_eq!(
        (fate(lost[0]), &lost[0]["client_packets"], &lost[0]["client_retransmits"]),
        (("failed", "timeout"), &json!(7), &json!(6))
    );
    assert_eq!((fate(late[0]), &late[0]["client_retransmits"]), (("ok", ""), &json!(6)));
}

/// Gaps that cannot be predicted: by its sequence number, a later SYN belongs to the attempt that has failed.
#[test]
fn a_syn_repeated_after_any_time_is_the_same_attempt() {
    needs_root!();
    let mut capture = Written::default();
    let mut c = Connection::new(40_000);
    let isn = c.next[CLIENT];
    capture.tcp(0, CLIENT, &mut c, 2, 0);
    capture.again(200 * S, CLIENT, &c, isn, 2, 0);
    capture.udp(400 * S, CLIENT, 50_000, 4);
    let flows = capture.replay();
    let attempts: Vec<_> = of_port(&flows, 40_000).into_iter().map(fate).collect();
    assert_eq!(attempts, [("failed", "timeout"); 2]);
    let retransmits: u64 =
        of_port(&flows, 40_000).iter().map(|flow| flow["client_retransmits"].as_u64().unwrap()).sum();
    assert_eq!(retransmits, 1);
}

/// The segment is sent 16 times, with gaps of up to 120 s.
#[test]
fn retransmissions_are_recognised_after_any_gap() {
    needs_root!();
    let flows = flows("peer_vanished.pcap");
    assert_eq!(of_port(&flows, 49100)[0]["client_retransmits"], 15);
}

/// A keep-alive, with or without a byte of data, is no retransmission; a repeated FIN is.
#[test]
fn keep_alives_are_no_retransmissions() {
    needs_root!();
    let mut capture = Written::default();
    let (mut idle, mut closing) = (Connection::new(40_001), Connection::new(40_002));
    for c in [&mut idle, &mut closing] {
        capture.handshake(0, c, MS, MS);
        capture.tcp(3 * MS, CLIENT, c, ACK | PSH, 10);
        capture.tcp(4 * MS, SERVER, c, ACK | PSH, 10);
        capture.tcp(5 * MS, CLIENT, c, ACK, 0);
    }
    capture.tcp(6 * MS, CLIENT, &mut closing, ACK | 1, 0);
    for n in 1..=4 {
        let before = idle.next[CLIENT].wrapping_sub(1);
        capture.again(n * 75 * S, CLIENT, &idle, before, ACK, (n % 2) as usize);
        capture.again(n * 75 * S + MS, SERVER, &idle, idle.next[SERVER], ACK, 0);
        capture.again(n * 75 * S + 2 * MS, CLIENT, &closing, closing.next[CLIENT].wrapping_sub(1), ACK | 1, 0);
    }
    let flows = capture.replay();
    let retransmits = |port| of_port(&flows, port)[0]["client_retransmits"].clone();
    assert_eq!([retransmits(40_001), retransmits(40_002)], [0, 4]);
}

#[test]
fn a_rst_after_the_close_is_no_failed_connection() {
    needs_root!();
    let flows = flows("late_rst.pcap");
    let fates: Vec<_> = of_port(&flows, 49300).into_iter().map(|flow| (fate(flow), &flow["client_ip"])).collect();
    assert!(fates.iter().all(|(fate, client)| *fate == ("ok", "") && *client == "192.0.2.10"), "{fates:?}");
}

/// A repeated FIN, data, a RST: late packets of a connection that is over, from either end.
#[test]
fn late_packets_belong_to_the_connection_that_is_over() {
    needs_root!();
    for (flags, sender, bytes) in
        [(ACK | 1, SERVER, 0), (ACK | PSH, SERVER, 5), (RST, CLIENT, 0), (RST | ACK, SERVER, 0)]
    {
        let mut capture = Written::default();
        let mut c = Connection::new(40_000);
        capture.handshake(0, &mut c, MS, MS);
        capture.close(10 * MS, &mut c);
        capture.tcp(60 * S, sender, &mut c, flags, bytes);
        capture.udp(700 * S, CLIENT, 50_000, 4);
        let flows = capture.replay();
        for flow in of_port(&flows, 40_000) {
            assert_eq!((fate(flow), &flow["client_ip"]), (("ok", ""), &json!("10.0.0.1")), "{flags} of {sender}");
        }
    }
}

/// Packets without a connection: a lone RST, a lone RST-ACK, a SYN-ACK and the RST that answers it.
#[test]
fn backscatter_is_no_failed_connection() {
    needs_root!();
    let mut capture = Written::default();
    let (mut lone, mut acked, mut answered) =
        (Connection::new(40_001), Connection::new(40_002), Connection::new(40_003));
    capture.tcp(0, SERVER, &mut lone, RST, 0);
    capture.tcp(MS, SERVER, &mut acked, RST | ACK, 0);
    capture.tcp(2 * MS, SERVER, &mut answered, 2 | ACK, 0);
    capture.tcp(3 * MS, CLIENT, &mut answered, RST, 0);
    capture.udp(700 * S, CLIENT, 50_000, 4);
    let flows = capture.replay();
    for port in 40_001..=40_003 {
        assert_eq!(of_port(&flows, port).into_iter().map(fate).collect::<Vec<_>>(), [("ok", "")], "{port}");
    }
}

/// The first connection was never closed: its client is gone.
#[test]
fn a_port_used_again_without_a_close_is_another_connection() {
    needs_root!();
    let flows = flows("port_reuse_unclosed.pcap");
    let packets = |flow: &Value| flow["client_packets"].as_u64().unwrap() + flow["server_packets"].as_u64().unwrap();
    assert_eq!(flows.iter().map(packets).collect::<Vec<_>>(), [7, 10]);
}

/// The same if the first SYN was never answered, and if the client comes back at once.
#[test]
fn a_syn_with_another_sequence_number_is_another_connection() {
    needs_root!();
    for gap in [2 * S, 20 * S] {
        let mut capture = Written::default();
        let (mut first, mut second) = (Connection::new(40_000), Connection::new(40_000));
        second.next = [1_000_000_000, 2_000_000_000];
        let isn = first.next[CLIENT];
        capture.tcp(0, CLIENT, &mut first, 2, 0);
        capture.again(S, CLIENT, &first, isn, 2, 0);
        capture.handshake(S + gap, &mut second, MS, MS);
        capture.close(S + gap + 10 * MS, &mut second);
        capture.udp(700 * S, CLIENT, 50_000, 4);
        let flows = capture.replay();
        let fates: Vec<_> =
            of_port(&flows, 40_000).into_iter().map(|flow| (fate(flow), flow["client_packets"].as_u64())).collect();
        assert_eq!(fates, [(("failed", "timeout"), Some(2)), (("ok", ""), Some(4))], "after {gap} ns");
    }
}

/// The server still has a connection with these ports: it answers the SYN with an ACK, the client resets that and
/// repeats its SYN (RFC 5961 4). That is one connection, and the second SYN a retransmission.
#[test]
fn a_syn_after_the_clients_own_rst_is_the_same() {
    needs_root!();
    let mut capture = Written::default();
    let mut c = Connection::new(40_000);
    let isn = c.next[CLIENT];
    capture.tcp(0, CLIENT, &mut c, 2, 0);
    capture.again(MS, SERVER, &c, 77, ACK, 0);
    capture.again(2 * MS, CLIENT, &c, 12, RST, 0);
    capture.again(S, CLIENT, &c, isn, 2, 0);
    capture.tcp(S + MS, SERVER, &mut c, 2 | ACK, 0);
    capture.tcp(S + 2 * MS, CLIENT, &mut c, ACK, 0);
    capture.close(S + 10 * MS, &mut c);
    capture.udp(700 * S, CLIENT, 50_000, 4);
    let flows = capture.replay();
    let of_port: Vec<_> =
        of_port(&flows, 40_000).into_iter().map(|flow| (fate(flow), &flow["client_retransmits"])).collect();
    assert_eq!(of_port, [(("ok", ""), &json!(1))]);
}
