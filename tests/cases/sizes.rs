//! Bytes on the wire.

use netmon::bpf::{Frame, Tally};

use crate::live::agent::{Watch, watching};
use crate::live::net::{Counters, quiet_pair};
use crate::live::traffic::{ETH, flow_of, tally, transfer};
use crate::needs_root;
use crate::support::kernel::{Kernel, small, total};
use crate::support::packet::{ACK, IPV4, IPV6, TCP, ethernet, ipv4, ipv6, tcp};

/// A packet of more than 64 KiB has its length in a header that is not in the segments on the wire.
#[test]
fn the_header_of_a_big_packet_is_not_sent() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let segment = tcp(ACK, &[1; 12], &[7; 2000]);
    let big = |option: [u8; 8]| {
        let mut packet = ethernet(&[], IPV6, &ipv6(0, &[&option[..], &segment].concat()));
        packet[18..20].copy_from_slice(&[0, 0]); // as the kernel leaves it if the field is too small
        packet
    };
    let jumbo = [TCP, 0, 0xc2, 4, 0, 0, 0x07, 0xd0];
    let cut = Frame { gso_segs: 4, gso_size: 500, ..Frame::default() };
    let headers = 14 + 40 + 32;
    let counted = |kernel: &mut Kernel, packet: &[u8], frame: Frame| {
        let (records, books) = kernel.one(true, packet, frame);
        assert_eq!((records.len(), total(&records)), (1, books.ingress));
        assert_eq!((records[0].protocol, records[0].source.port), (TCP, 40000));
        total(&records)
    };
    let tally = |packets, bytes| Tally { packets, bytes };
    assert_eq!(counted(&mut kernel, &big(jumbo), cut), tally(4, 2000 + 4 * headers));
    let sized = Frame { gso_size: 600, ..Frame::default() };
    assert_eq!(counted(&mut kernel, &big(jumbo), sized), tally(4, 2000 + 4 * headers), "a guest's");
    // As it was captured, without segmentation.
    assert_eq!(counted(&mut kernel, &big(jumbo), Frame::default()), tally(1, 2000 + headers + 8));
    // Other options are sent with each segment.
    let router_alert = [TCP, 0, 5, 2, 0, 0, 1, 0];
    assert_eq!(counted(&mut kernel, &big(router_alert), cut), tally(4, 2000 + 4 * (headers + 8)));
    let mut v4 = ethernet(&[], IPV4, &ipv4(TCP, &[], 0, 0, &segment));
    v4[16..18].copy_from_slice(&[0, 0]);
    assert_eq!(counted(&mut kernel, &v4, cut), tally(4, 2000 + 4 * (headers - 20)), "IPv4 has no such header");
}

#[test]
fn big_tcp_counts_what_tcp_sent() {
    needs_root!();
    let (a, b) = quiet_pair();
    for (ns, link) in [(&a, "va"), (&b, "vb")] {
        ns.sh("cd /proc/sys/net/ipv4
               echo 0 >tcp_sack
               echo 1 >tcp_timestamps
               echo 4096 4000000 8000000 >tcp_rmem
               echo 4096 4000000 8000000 >tcp_wmem");
        // Since Linux 5.19, for IPv4 since 6.3.
        let big = |what: &str| format!("ip link set {link} {what}_max_size 150000 || true");
        ns.sh(&["gso", "gro", "gso_ipv4", "gro_ipv4"].map(big).join("\n"));
    }
    for (ns, link) in [(&a, "va"), (&b, "vb")] {
        let mut watch = Watch::start(ns, link, watching(&[link]));
        for server in ["fd09::2", "10.9.0.2"] {
            let before = Counters::read(&a, "va");
            let connection = transfer(&a, &b, server.parse().unwrap(), 1, 40_000_000)[0];
            let sent = Counters::read(&a, "va").since(before).tx.packets;
            let flows = watch.settled();
            let flow = flow_of(&flows, 6, connection.client, connection.server);
            assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH), "{link}, {server}");
            assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH), "{link}, {server}");
            println!("{link}, {server}: {} segments in {sent} packets", flow.from_client().packets);
        }
        watch.stop();
    }
}
