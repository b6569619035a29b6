//! With offloads, a packet in the kernel is many on the wire. The expected numbers come from TCP, which counts
//! segments, and from the kernel's own segmentation: the second interface of a router cannot segment, so software does
//! it, frame by frame.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use netmon::bpf::Tally;
use nix::libc;

use super::agent::{Watch, watching};
use super::eventually;
use super::net::{Counters, End, connect, host, quiet_pair};
use super::traffic::{ETH, flow_of, ip_header, plain_tcp, tally, transfer, udp_to};
use crate::needs_root;
use crate::support::netns::Netns;

/// The agent runs on the receiver's host, with all offloads on.
#[test]
fn flows_agree_with_tcp() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        plain_tcp(&a);
        plain_tcp(&b);
        let config = netmon::config::Config { clsact, ..watching(&["vb"]) };
        let mut watch = Watch::start(&b, "vb", config);
        let mut connections = Vec::new();
        for server in ["10.9.0.2", "fd09::2"] {
            connections.extend(transfer(&a, &b, server.parse().unwrap(), 1, 30_000_000));
            connections.extend(transfer(&a, &b, server.parse().unwrap(), 8, 4_000_000));
        }
        let flows = watch.settled();
        for c in &connections {
            let flow = flow_of(&flows, 6, c.client, c.server);
            assert_eq!(tally(flow.from_client()), c.client_on_wire(ETH), "{c:?}");
            assert_eq!(tally(flow.from_server()), c.server_on_wire(ETH), "{c:?}");
        }
        let watched = watch.stop();
        assert!(watched.books.ingress.packets > watched.counters.rx.packets, "there were packets of many segments");
    }
}

/// a (va) - (ma) m (mb) - (vb) b, where mb sends what ma received, segmented.
fn router() -> (Netns, Netns, Netns) {
    let (a, m, b) = (host("a"), host("m"), host("b"));
    connect(8, &End { ns: &a, link: "va", host: 1 }, &End { ns: &m, link: "ma", host: 2 });
    connect(9, &End { ns: &m, link: "mb", host: 1 }, &End { ns: &b, link: "vb", host: 2 });
    m.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
          echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
          ethtool -K mb tso off gso off tx off >/dev/null");
    a.sh("ip route add default via 10.8.0.2
          ip route add default via fd08::2");
    b.sh("ip route add default via 10.9.0.1
          ip route add default via fd09::1");
    // The other direction must not arrive in packets of many segments either.
    b.sh("ethtool -K vb tso off gso off tx off >/dev/null");
    for ns in [&a, &b] {
        ns.sh("cd /proc/sys/net/ipv4 && echo 4096 65536 65536 >tcp_rmem");
    }
    (a, m, b)
}

#[test]
fn segments_agree_with_the_kernel() {
    needs_root!();
    let (a, m, b) = router();
    let mut watch = Watch::start(&m, "ma", watching(&["ma"]));
    let before = Counters::read(&m, "mb");
    let mut connections = Vec::new();
    for server in ["10.9.0.2", "fd09::2"] {
        connections.extend(transfer(&a, &b, server.parse().unwrap(), 1, 30_000_000));
        connections.extend(transfer(&a, &b, server.parse().unwrap(), 8, 4_000_000));
    }
    let flows = watch.settled();
    let mut sums = (Tally::default(), Tally::default());
    for c in &connections {
        let flow = flow_of(&flows, 6, c.client, c.server);
        sums.0 += tally(flow.from_client());
        sums.1 += tally(flow.from_server());
    }
    let segmented = Counters::read(&m, "mb").since(before);
    assert_eq!(segmented.dropped, 0);
    assert_eq!(sums, (segmented.tx, segmented.rx), "flows against the frames on the second interface");
    let watched = watch.stop();
    assert_eq!((watched.books.ingress, watched.books.egress), sums);
    let received = watched.counters.rx.packets;
    assert!(received * 4 < sums.0.packets, "{received} packets were to hold many more segments each");
}

/// UDP_SEGMENT: many datagrams in one call.
#[test]
fn udp_segments_agree_with_the_kernel() {
    needs_root!();
    const CALLS: u64 = 2000;
    const SEGMENT: u64 = 1200;
    const SEGMENTS: u64 = 20;
    for server in ["10.9.0.2", "fd09::2"] {
        let server: IpAddr = server.parse().unwrap();
        let (a, m, b) = router();
        let mut watch = Watch::start(&m, "ma", watching(&["ma"]));
        let before = Counters::read(&m, "mb");
        let receiver = b.run(|| UdpSocket::bind((server, 5001)).unwrap());
        let to = receiver.local_addr().unwrap();
        let sender = a.run(|| udp_to(to));
        let size = SEGMENT as libc::c_int;
        // SAFETY: the value outlives the call.
        let result = unsafe {
            let (level, name, length) = (libc::SOL_UDP, libc::UDP_SEGMENT, size_of_val(&size) as _);
            libc::setsockopt(sender.as_raw_fd(), level, name, (&raw const size).cast(), length)
        };
        assert_eq!(result, 0, "UDP_SEGMENT (Linux 4.18)");
        // The last datagram of each call is shorter.
        let payload = vec![7; ((SEGMENTS - 1) * SEGMENT + 100) as usize];
        for _ in 0..CALLS {
            assert_eq!(sender.send(&payload).unwrap(), payload.len());
        }
        let segmented = eventually("all datagrams were forwarded", || {
            let now = Counters::read(&m, "mb").since(before);
            (now.tx.packets + now.dropped == CALLS * SEGMENTS).then_some(now)
        });
        let flows = watch.settled();
        let flow = flow_of(&flows, 17, sender.local_addr().unwrap(), to);
        let header = ETH + ip_header(server) + 8;
        let sent = Tally { packets: CALLS * SEGMENTS, bytes: CALLS * (SEGMENTS * header + payload.len() as u64) };
        assert_eq!(tally(flow.from_client()), sent);
        if segmented.dropped == 0 {
            assert_eq!(tally(flow.from_client()), segmented.tx);
        }
        let watched = watch.stop();
        assert_eq!(watched.counters.rx.packets, CALLS, "the first interface knew the packets by their calls");
    }
}
