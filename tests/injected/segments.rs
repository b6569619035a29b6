//! What sequence numbers show: retransmissions, segments out of order, duplicate ACKs, closed windows, resets.

use super::pin;
use crate::needs_root;
use crate::support::packet::{ACK, FIN, PSH, RST};
use crate::support::talk::End::{Client, Server};
use crate::support::talk::{Report, Talk};

const MS: u64 = 1_000_000;

fn both(test: impl Fn(&mut Talk)) {
    pin(0);
    for v6 in [false, true] {
        let mut talk = Talk::new(v6);
        talk.open();
        test(&mut talk);
    }
}

/// All counters, in a fixed order.
fn counters(report: &Report) -> [u16; 5] {
    [report.retransmits, report.out_of_order, report.duplicate_acks, report.zero_windows, report.resets]
}

#[test]
fn a_plain_conversation_has_no_anomalies() {
    needs_root!();
    both(|talk| {
        for i in 0..20u32 {
            let at = u64::from(20 + 10 * i) * MS;
            talk.tcp(at, Client, ACK | PSH, 1001 + 10 * i, 5001 + 20 * i, &[1; 10]);
            talk.tcp(at + MS, Server, ACK, 5001 + 20 * i, 1011 + 10 * i, b"");
            talk.tcp(at + 2 * MS, Server, ACK | PSH, 5001 + 20 * i, 1011 + 10 * i, &[2; 20]);
            talk.tcp(at + 3 * MS, Client, ACK, 1011 + 10 * i, 5021 + 20 * i, b"");
        }
        talk.tcp(300 * MS, Client, FIN | ACK, 1201, 5401, b"");
        talk.tcp(301 * MS, Server, FIN | ACK, 5401, 1202, b"");
        talk.tcp(302 * MS, Client, ACK, 1202, 5402, b"");
        let [client, server] = talk.reports();
        assert_eq!((counters(&client), counters(&server)), ([0; 5], [0; 5]));
        assert_eq!((client.packets, server.packets), (2 + 40 + 2, 1 + 40 + 1));
    });
}

#[test]
fn bytes_that_were_sent_before_are_a_retransmission() {
    needs_root!();
    both(|talk| {
        talk.tcp(20 * MS, Client, ACK, 1001, 5001, &[1; 100]);
        talk.tcp(230 * MS, Client, ACK, 1001, 5001, &[1; 100]);
        talk.tcp(240 * MS, Client, ACK, 1051, 5001, &[1; 100]); // half of it is new
        talk.tcp(250 * MS, Client, FIN | ACK, 1151, 5001, b"");
        talk.tcp(460 * MS, Client, FIN | ACK, 1151, 5001, b"");
        let [client, _] = talk.reports();
        assert_eq!(counters(&client), [3, 0, 0, 0, 0]);
    });
}

/// A gap that is filled within the round-trip time is a matter of order; later, of loss.
#[test]
fn a_gap_is_filled_late_or_by_a_retransmission() {
    needs_root!();
    both(|talk| {
        talk.tcp(20 * MS, Client, ACK, 1001, 5001, &[1; 100]);
        talk.tcp(21 * MS, Client, ACK, 1201, 5001, &[1; 100]); // 1101 is missing
        talk.tcp(22 * MS, Client, ACK, 1101, 5001, &[1; 100]); // 1 ms: overtaken
        talk.tcp(30 * MS, Client, ACK, 1401, 5001, &[1; 100]); // 1301 is missing
        talk.tcp(90 * MS, Client, ACK, 1301, 5001, &[1; 100]); // 60 ms: the handshake took 14
        let [client, _] = talk.reports();
        assert_eq!(counters(&client), [1, 1, 0, 0, 0]);
    });
}

#[test]
fn keep_alives_are_neither_data_nor_duplicates() {
    needs_root!();
    both(|talk| {
        for i in 0..3u64 {
            talk.tcp((100 + i * 1000) * MS, Client, ACK, 1000, 5001, b"");
            talk.tcp((600 + i * 1000) * MS, Client, ACK, 1000, 5001, &[0]);
        }
        let [client, _] = talk.reports();
        assert_eq!(counters(&client), [0; 5]);
    });
}

#[test]
fn a_repeated_ack_is_a_duplicate() {
    needs_root!();
    both(|talk| {
        talk.tcp(20 * MS, Client, ACK, 1001, 5001, &[1; 100]);
        talk.tcp(21 * MS, Server, ACK, 5001, 1101, b"");
        for i in 0..3 {
            talk.tcp((22 + i) * MS, Server, ACK, 5001, 1101, b"");
        }
        talk.window(2000);
        talk.tcp(30 * MS, Server, ACK, 5001, 1101, b""); // a window update
        talk.tcp(31 * MS, Server, ACK | PSH, 5001, 1101, b"data");
        let [_, server] = talk.reports();
        assert_eq!(counters(&server), [0, 0, 3, 0, 0]);
    });
}

#[test]
fn closed_windows_and_resets_are_counted() {
    needs_root!();
    both(|talk| {
        talk.window(0);
        talk.tcp(20 * MS, Server, ACK, 5001, 1001, b"");
        talk.window(1000);
        talk.tcp(30 * MS, Server, ACK, 5001, 1001, b"");
        talk.window(0); // as in any RST of Linux: no announcement
        talk.tcp(40 * MS, Server, RST | ACK, 5001, 1001, b"");
        let [client, server] = talk.reports();
        assert_eq!(counters(&server), [0, 0, 0, 1, 1]);
        assert_eq!(counters(&client), [0; 5]);
    });
}

/// The entry outlives its records: a segment that is repeated a second later is still recognised.
#[test]
fn a_record_in_between_changes_nothing() {
    needs_root!();
    both(|talk| {
        talk.tcp(20 * MS, Client, ACK, 1001, 5001, &[1; 100]);
        talk.kernel.bpf.clock().advance(crate::support::talk::EPOCH + 1500 * MS);
        talk.kernel.sweeper().sweep(netmon::bpf::Sweep::Due).unwrap();
        let before = talk.kernel.drain();
        assert!(!before.is_empty());
        talk.tcp(1600 * MS, Client, ACK, 1001, 5001, &[1; 100]);
        let [client, _] = talk.reports();
        assert_eq!(counters(&client), [1, 0, 0, 0, 0]);
    });
}
