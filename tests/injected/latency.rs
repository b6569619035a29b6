//! Times between packets, exact to the nanosecond, because the test controls the clock.

use std::time::Duration;

use netmon::bpf::Measure::{Connect, Echo, HandshakeClient, HandshakeServer, Response, Rtt, RttLone, RttWaited};
use netmon::bpf::{ProgramOptions, TimestampSource};

use super::pin;
use crate::needs_root;
use crate::support::kernel::small;
use crate::support::packet::{ACK, FIN, PSH, SYN};
use crate::support::talk::End::{Client, Server};
use crate::support::talk::{Report, Talk};

const MS: u64 = 1_000_000;

fn both(test: impl Fn(&mut Talk)) {
    pin(0);
    for v6 in [false, true] {
        test(&mut Talk::new(v6));
    }
}

#[test]
fn a_handshake_is_split_where_it_is_seen() {
    needs_root!();
    both(|talk| {
        talk.open();
        let [client, server] = talk.reports();
        assert_eq!(server.samples, [(HandshakeServer, 10 * MS)]);
        assert_eq!(client.samples, [(HandshakeClient, 4 * MS), (Connect, 14 * MS)]);
    });
}

/// The CPU of the system call sends a client's SYN, the CPU that received the SYN-ACK sends the ACK, and that of the
/// server's thread its answer.
#[test]
fn a_connection_may_use_several_cpus() {
    needs_root!();
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    for v6 in [false, true] {
        let mut talk = Talk::new(v6);
        let mut on = |cpu, ns, from, flags, seq, ack, payload: &[u8]| {
            pin(cpu);
            talk.tcp(ns, from, flags, seq, ack, payload);
        };
        on(0, 0, Client, SYN, 1000, 0, b"");
        on(0, 10 * MS, Server, SYN | ACK, 5000, 1001, b"");
        on(last, 14 * MS, Client, ACK, 1001, 5001, b"");
        on(0, 300 * MS, Client, ACK | PSH, 1001, 5001, b"what");
        on(0, 310 * MS, Server, ACK, 5001, 1005, b"");
        on(last, 350 * MS, Server, ACK | PSH, 5001, 1005, b"that");
        // The server's ACK comes on the CPU that has the client's first one; a later one on the other CPU.
        on(last, 357 * MS, Client, ACK, 1005, 5005, b"");
        on(0, 500 * MS, Client, ACK | PSH, 1005, 5005, b"more");
        let [client, server] = talk.reports();
        let of = |report: &Report, measure| {
            report.samples.iter().filter(|s| s.0 == measure).map(|s| s.1).collect::<Vec<u64>>()
        };
        assert_eq!((of(&client, HandshakeClient), of(&client, Connect)), (vec![4 * MS], vec![14 * MS]));
        assert_eq!((of(&server, HandshakeServer), of(&server, Response)), (vec![10 * MS], vec![50 * MS]));
        assert_eq!((of(&server, RttLone), of(&client, RttLone)), (vec![10 * MS], vec![7 * MS]));
    }
}

/// Each connection has two places in the table: a third that needs one of them is rare, and is counted.
#[test]
fn connections_at_once_do_not_take_each_others_place() {
    needs_root!();
    both(|talk| {
        for ns in (0..400).map(|n| 20_000 * n) {
            talk.tcp(ns, Client, SYN, 1000, 0, b"");
            talk.tcp(ns + 10_000, Server, SYN | ACK, 5000, 1001, b"");
            talk.tcp(ns + 14_000, Client, ACK, 1001, 5001, b"");
            talk.next_port();
        }
        let [client, _] = talk.reports();
        let measured = client.samples.iter().filter(|s| **s == (Connect, 14_000)).count();
        let unpaired = talk.kernel.misses().unpaired;
        // Each start hashes differently: two or three without a place are usual, a dozen is not.
        assert!(measured >= 385, "{measured} of 400 measured, {unpaired} packets without a place");
        assert_eq!(measured == 400, unpaired == 0);
    });
}

/// It is not known which of two SYNs was answered, but the time since the first is.
#[test]
fn a_repeated_syn_voids_the_server_side() {
    needs_root!();
    both(|talk| {
        talk.tcp(0, Client, SYN, 1000, 0, b"");
        talk.tcp(1000 * MS, Client, SYN, 1000, 0, b"");
        talk.tcp(1010 * MS, Server, SYN | ACK, 5000, 1001, b"");
        talk.tcp(1014 * MS, Client, ACK, 1001, 5001, b"");
        let [client, server] = talk.reports();
        assert_eq!(server.samples, []);
        assert_eq!(client.samples, [(HandshakeClient, 4 * MS), (Connect, 1014 * MS)]);
        assert_eq!(client.retransmits, 1);
    });
}

#[test]
fn a_repeated_syn_ack_voids_the_client_side() {
    needs_root!();
    both(|talk| {
        talk.tcp(0, Client, SYN, 1000, 0, b"");
        talk.tcp(10 * MS, Server, SYN | ACK, 5000, 1001, b"");
        talk.tcp(500 * MS, Server, SYN | ACK, 5000, 1001, b"");
        talk.tcp(504 * MS, Client, ACK, 1001, 5001, b"");
        let [client, server] = talk.reports();
        assert_eq!(server.samples, [(HandshakeServer, 10 * MS)]);
        assert_eq!(client.samples, [(Connect, 504 * MS)]);
        assert_eq!(server.retransmits, 1);
    });
}

#[test]
fn ports_used_again_are_a_new_handshake() {
    needs_root!();
    both(|talk| {
        talk.open();
        talk.tcp(20 * MS, Client, FIN | ACK, 1001, 5001, b"");
        talk.tcp(21 * MS, Server, FIN | ACK, 5001, 1002, b"");
        talk.tcp(22 * MS, Client, ACK, 1002, 5002, b"");
        talk.tcp(30 * MS, Client, SYN, 70_000, 0, b"");
        talk.tcp(37 * MS, Server, SYN | ACK, 90_000, 70_001, b"");
        talk.tcp(39 * MS, Client, ACK, 70_001, 90_001, b"");
        let [client, server] = talk.reports();
        assert_eq!(server.samples, [(HandshakeServer, 10 * MS), (HandshakeServer, 7 * MS)]);
        let again = [(HandshakeClient, 2 * MS), (Connect, 9 * MS)];
        assert_eq!(client.samples, [[(HandshakeClient, 4 * MS), (Connect, 14 * MS)], again].concat());
        assert_eq!((client.retransmits, server.retransmits), (0, 0));
    });
}

/// A request of three segments, a separate ACK, an answer of two segments.
#[test]
fn a_turn_is_a_response() {
    needs_root!();
    both(|talk| {
        talk.open();
        talk.tcp(20 * MS, Client, ACK, 1001, 5001, &[b'a'; 100]);
        talk.tcp(21 * MS, Client, ACK, 1101, 5001, &[b'a'; 100]);
        talk.tcp(22 * MS, Client, ACK | PSH, 1201, 5001, &[b'a'; 100]);
        talk.tcp(25 * MS, Server, ACK, 5001, 1301, b"");
        talk.tcp(72 * MS, Server, ACK, 5001, 1301, &[b'b'; 100]);
        talk.tcp(73 * MS, Server, ACK | PSH, 5101, 1301, &[b'b'; 100]);
        talk.tcp(80 * MS, Client, ACK, 1301, 5201, b"");
        // The client thinks for a second: no response time. Its next request has one.
        talk.tcp(1080 * MS, Client, ACK | PSH, 1301, 5201, b"next");
        talk.tcp(1083 * MS, Server, ACK | PSH, 5201, 1305, b"answer");
        let [client, server] = talk.reports();
        let responses: Vec<u64> = server.samples.iter().filter(|s| s.0 == Response).map(|s| s.1).collect();
        assert_eq!(responses, [50 * MS, 3 * MS]);
        assert!(client.samples.iter().all(|s| s.0 != Response), "{client:?}");
    });
}

#[test]
fn a_round_trip_is_from_data_to_the_ack_that_covers_it() {
    needs_root!();
    both(|talk| {
        talk.open();
        talk.tcp(20 * MS, Client, ACK, 1001, 5001, &[b'a'; 100]);
        talk.tcp(21 * MS, Client, ACK, 1101, 5001, &[b'a'; 100]);
        talk.tcp(32 * MS, Server, ACK, 5001, 1201, b"");
        // One probe each second: the next segment is none, the one after that is.
        talk.tcp(40 * MS, Client, ACK, 1201, 5001, &[b'a'; 100]);
        talk.tcp(55 * MS, Server, ACK, 5001, 1301, b"");
        talk.tcp(1200 * MS, Client, ACK, 1301, 5001, &[b'a'; 100]);
        talk.tcp(1217 * MS, Server, ACK, 5001, 1401, b"");
        let [_, server] = talk.reports();
        let trips: Vec<_> = server.samples.iter().filter(|s| [Rtt, RttLone, RttWaited].contains(&s.0)).collect();
        // The first ACK covers data after the probe, so it counts from there. Nothing made either come at once.
        assert_eq!(trips, [&(RttLone, 11 * MS), &(RttLone, 17 * MS)]);
    });
}

/// The data that an ACK covers show whether it can have been delayed (RFC 9293 3.8.6.3).
#[test]
fn two_full_segments_are_acknowledged_at_once() {
    needs_root!();
    let full = [b'a'; 1448];
    both(|talk| {
        talk.open();
        // In order, the second with PSH; an ACK of both.
        talk.tcp(1000 * MS, Client, ACK, 1001, 5001, &full);
        talk.tcp(1001 * MS, Client, ACK | PSH, 2449, 5001, &full);
        talk.tcp(1090 * MS, Server, ACK, 5001, 3897, b"");
        // An ACK of only the first.
        talk.tcp(2100 * MS, Client, ACK, 3897, 5001, &full);
        talk.tcp(2101 * MS, Client, ACK | PSH, 5345, 5001, &full);
        talk.tcp(2190 * MS, Server, ACK, 5001, 5345, b"");
        talk.tcp(2191 * MS, Server, ACK, 5001, 6793, b"");
        // A full segment and a small one; and both again with an answer.
        talk.tcp(3200 * MS, Client, ACK, 6793, 5001, &full);
        talk.tcp(3201 * MS, Client, ACK | PSH, 8241, 5001, b"end");
        talk.tcp(3245 * MS, Server, ACK, 5001, 8244, b"");
        talk.tcp(4300 * MS, Client, ACK, 8244, 5001, &full);
        talk.tcp(4301 * MS, Client, ACK | PSH, 9692, 5001, &full);
        talk.tcp(4350 * MS, Server, ACK | PSH, 5001, 11140, b"that");
        let [_, server] = talk.reports();
        let trips: Vec<_> = server.samples.into_iter().filter(|s| [Rtt, RttLone, RttWaited].contains(&s.0)).collect();
        assert_eq!(trips, [(Rtt, 89 * MS), (RttLone, 90 * MS), (RttLone, 44 * MS), (RttWaited, 49 * MS)]);
    });
}

#[test]
fn sequence_numbers_wrap() {
    needs_root!();
    both(|talk| {
        let isn = u32::MAX - 20;
        talk.tcp(0, Client, SYN, isn, 0, b"");
        talk.tcp(MS, Server, SYN | ACK, 5000, isn + 1, b"");
        talk.tcp(2 * MS, Client, ACK, isn + 1, 5001, b"");
        talk.tcp(10 * MS, Client, ACK | PSH, isn + 1, 5001, &[b'a'; 100]);
        talk.tcp(15 * MS, Server, ACK | PSH, 5001, isn.wrapping_add(101), b"b");
        talk.tcp(16 * MS, Client, ACK, isn.wrapping_add(101), 5002, b"");
        let [client, server] = talk.reports();
        assert_eq!(server.samples, [(HandshakeServer, MS), (RttWaited, 5 * MS), (Response, 5 * MS)]);
        assert_eq!((client.retransmits, server.retransmits), (0, 0));
    });
}

/// Karn's algorithm: it is not known which transmission was acknowledged.
#[test]
fn a_retransmission_voids_the_probe() {
    needs_root!();
    both(|talk| {
        talk.open();
        talk.tcp(20 * MS, Client, ACK, 1001, 5001, &[b'a'; 100]);
        talk.tcp(320 * MS, Client, ACK, 1001, 5001, &[b'a'; 100]);
        talk.tcp(330 * MS, Server, ACK, 5001, 1101, b"");
        let [client, server] = talk.reports();
        assert_eq!(client.retransmits, 1);
        assert_eq!(server.samples, [(HandshakeServer, 10 * MS)]);
    });
}

#[test]
fn with_high_precision_each_answer_is_a_round_trip() {
    needs_root!();
    pin(0);
    let options = ProgramOptions { timestamps: TimestampSource::Capture, latency: Some(Duration::ZERO), ..small() };
    let mut talk = Talk::with(false, options);
    talk.open();
    for i in 0..10u32 {
        let at = u64::from(20 + 20 * i) * MS;
        talk.tcp(at, Client, ACK, 1001 + 100 * i, 5001, &[b'a'; 100]);
        talk.tcp(at + 7 * MS + u64::from(i), Server, ACK, 5001, 1101 + 100 * i, b"");
    }
    let [_, server] = talk.reports();
    let trips: Vec<u64> = server.samples.iter().filter(|s| s.0 == RttLone).map(|s| s.1).collect();
    assert_eq!(trips, (0..10).map(|i| 7 * MS + i).collect::<Vec<_>>());
}

#[test]
fn datagrams_answer_each_other() {
    needs_root!();
    both(|talk| {
        talk.udp(0, Client, b"what");
        talk.udp(3 * MS, Server, b"that");
        talk.udp(10 * MS, Client, b"and");
        talk.udp(11 * MS + 7, Server, b"this");
        let [_, server] = talk.reports();
        assert_eq!(server.samples, [(Response, 3 * MS), (Response, MS + 7)]);
    });
}

#[test]
fn an_echo_is_matched_by_its_number() {
    needs_root!();
    both(|talk| {
        talk.echo(0, Client, 1);
        talk.echo(4 * MS, Server, 1);
        talk.echo(4 * MS + 1, Server, 1); // a duplicate
        talk.echo(1000 * MS, Client, 2);
        talk.echo(2000 * MS, Client, 3);
        talk.echo(2003 * MS, Server, 2); // its request is no longer known
        talk.echo(2005 * MS, Server, 3);
        let [_, server] = talk.reports();
        assert_eq!(server.samples, [(Echo, 4 * MS), (Echo, 5 * MS)]);
    });
}

/// Samples that do not fit one record are written in several.
#[test]
fn no_sample_of_a_capture_is_left_out() {
    needs_root!();
    both(|talk| {
        for i in 0..100 {
            talk.udp(2 * i * MS, Client, b"what");
            talk.udp(2 * i * MS + 1000 + i, Server, b"that");
        }
        let [_, server] = talk.reports();
        assert_eq!(server.samples, (0..100).map(|i| (Response, 1000 + i)).collect::<Vec<_>>());
        assert_eq!(server.packets, 100);
    });
}

/// The NIC's clock differs from the kernel's: a time is measured with one or the other, never with both.
#[test]
fn timestamps_of_the_nic_are_used_if_both_sides_have_them() {
    needs_root!();
    pin(0);
    let options = || ProgramOptions { timestamps: TimestampSource::Hardware, latency: Some(Duration::ZERO), ..small() };
    let mut talk = Talk::with(false, options());
    talk.stamped = true;
    talk.open();
    talk.tcp(20 * MS, Client, ACK | PSH, 1001, 5001, b"what");
    talk.tcp(70 * MS, Server, ACK | PSH, 5001, 1005, b"that");
    let [_, server] = talk.reports();
    assert_eq!(server.samples[1..], [(RttWaited, 50 * MS), (Response, 50 * MS)]);
    // Until the second side had a timestamp, the kernel's clock was used. The NIC's times are whole milliseconds.
    assert!(matches!(server.samples[0], (HandshakeServer, ns) if ns % MS != 0), "{:?}", server.samples);
    let [kernel, hardware] = talk.kernel.misses().stamps;
    assert!(kernel > 0 && hardware > 0);

    // Only incoming packets have timestamps, as on a host's own NIC.
    let mut talk = Talk::with(false, options());
    talk.open();
    talk.tcp(20 * MS, Client, ACK | PSH, 1001, 5001, b"what");
    talk.stamped = true;
    talk.tcp(70 * MS, Server, ACK | PSH, 5001, 1005, b"that");
    let [_, server] = talk.reports();
    assert!(server.samples.iter().all(|sample| sample.1 % MS != 0), "by the kernel's clock: {:?}", server.samples);
    assert_eq!(talk.kernel.misses().stamps[1], 0);
}
