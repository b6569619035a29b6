//! Interfaces and frames that are not plain Ethernet: loopback, tun, VLAN tags.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use netmon::bpf::Tally;
use netmon::flow::Flow;
use nix::libc;

use super::agent::{Agent, Watch, watching};
use super::net::{End, connect, host, index, offloads_off, quiet_pair};
use super::traffic::{ETH, flow_of, plain_tcp, tally, transfer, udp_to};
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::packet;

/// A packet leaves through the loopback device and comes in through it: one of the two is accounted, the other is a
/// duplicate.
#[test]
fn loopback() {
    needs_root!();
    for segmented in [false, true] {
        let ns = host("lo");
        plain_tcp(&ns);
        if !segmented {
            offloads_off(&ns, "lo");
        }
        let mut watch = Watch::start(&ns, "lo", watching(&["lo"]));
        let mut connections = Vec::new();
        for server in ["127.0.0.1", "::1"] {
            connections.extend(transfer(&ns, &ns, server.parse().unwrap(), 1, 3_000_000));
            connections.extend(transfer(&ns, &ns, server.parse().unwrap(), 3, 10));
        }
        let flows = watch.settled();
        let mut sent = Tally::default();
        for c in &connections {
            let flow = flow_of(&flows, 6, c.client, c.server);
            assert_eq!(tally(flow.from_client()), c.client_on_wire(ETH), "{c:?}");
            assert_eq!(tally(flow.from_server()), c.server_on_wire(ETH), "{c:?}");
            sent += c.client_on_wire(ETH);
            sent += c.server_on_wire(ETH);
        }
        let watched = watch.stop();
        let sum = watched.report.conservation();
        assert_eq!((sum.accounted, sum.duplicate), (sent, sent), "{sum}");
        assert_eq!((watched.books.ingress, watched.books.egress), (sent, sent));
        if !segmented {
            // The loopback device counts bytes without the Ethernet header.
            let Tally { packets, bytes } = watched.counters.tx;
            assert_eq!(watched.counters.rx, watched.counters.tx);
            assert_eq!(sent, Tally { packets, bytes: bytes + packets * ETH });
        }
    }
}

/// Opens the program's end of a tun or tap device (`kind`): packets written to it come in, packets that go out are read
/// from it.
pub fn open_tun(ns: &Netns, name: &str, kind: libc::c_int) -> File {
    let mut request = [0u8; 40]; // struct ifreq
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (kind | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // The device is created in the namespace where the file was opened.
    ns.run(|| {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: the request is as long as struct ifreq and outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        file
    })
}

/// Packets that start with the IP header.
#[test]
fn tun() {
    needs_root!();
    let ns = host("tun");
    let mut file = open_tun(&ns, "t0", libc::IFF_TUN);
    ns.sh("ip addr add 10.7.0.1/24 dev t0
           ip addr add fd07::1/64 dev t0 nodad
           ip link set dev t0 up");
    let mut watch = Watch::start(&ns, "t0", watching(&["t0"]));
    // From 10.0.0.1 and fd00::1 to addresses without a host: they are dropped after the hook.
    let v4 = packet::ipv4(packet::UDP, &[], 1, 0, &packet::udp(b"hello"));
    let v6 = packet::ipv6(packet::TCP, &packet::tcp(packet::SYN, &[], b""));
    for _ in 0..10 {
        file.write_all(&v4).unwrap();
        file.write_all(&v6).unwrap();
    }
    let mut sizes = Vec::new();
    for to in ["10.7.0.9:53", "[fd07::9]:53"] {
        let socket = ns.run(|| udp_to(to.parse().unwrap()));
        socket.send(b"out").unwrap();
        loop {
            let mut read = [0; 2000];
            let length = file.read(&mut read).unwrap();
            // Multicast reports come out, too.
            if read[..length].ends_with(b"out") {
                sizes.push((socket.local_addr().unwrap(), to.parse().unwrap(), length as u64));
                break;
            }
        }
    }
    let flows = watch.settled();
    let end = |text: &str| text.parse().unwrap();
    let flow = flow_of(&flows, packet::UDP, end("10.0.0.1:40000"), end("10.0.0.2:53"));
    assert_eq!(tally(flow.from_client()), Tally { packets: 10, bytes: 10 * v4.len() as u64 });
    let flow = flow_of(&flows, packet::TCP, end("[fd00::1]:40000"), end("[fd00::2]:80"));
    assert_eq!(tally(flow.from_client()), Tally { packets: 10, bytes: 10 * v6.len() as u64 });
    assert_eq!(flow.direction.name(), "ingress");
    for (client, server, bytes) in sizes {
        let flow = flow_of(&flows, packet::UDP, client, server);
        assert_eq!(tally(flow.from_client()), Tally { packets: 1, bytes });
        assert_eq!(flow.direction.name(), "egress");
    }
    watch.stop().assert_as_counted();
}

/// A frame with this many bytes in the linear part of its buffer; the rest is in pages. To make the kernel build it so,
/// it is longer than a page and comes through a tap device that reports where its headers end.
#[test]
fn headers_outside_the_linear_part() {
    needs_root!();
    let ns = host("tap");
    let mut file = open_tun(&ns, "t0", libc::IFF_TAP | libc::IFF_VNET_HDR);
    ns.sh("ip link set dev t0 mtu 9000 up");
    let mut watch = Watch::start(&ns, "t0", watching(&["t0"]));
    let long = [0u8; 5000];
    let mut expected = Vec::new();
    for (i, linear) in [14u16, 15, 30, 34, 40, 54, 60, 200].into_iter().enumerate() {
        let mut tcp = packet::tcp(packet::ACK, &[], &long);
        tcp[0..2].copy_from_slice(&(50000 + i as u16).to_be_bytes());
        let frames = [
            packet::ethernet(&[], packet::IPV4, &packet::ipv4(packet::TCP, &[], 1, 0, &tcp)),
            packet::ethernet(&[], packet::IPV6, &packet::ipv6(packet::TCP, &tcp)),
        ];
        for frame in &frames {
            let mut header = [0u8; 10]; // struct virtio_net_hdr: no GSO, but the length of the headers
            header[2..4].copy_from_slice(&linear.to_ne_bytes());
            file.write_all(&[&header, frame.as_slice()].concat()).unwrap();
        }
        expected.push((50000 + i as u16, frames.map(|f| f.len() as u64)));
    }
    let flows = watch.settled();
    for (port, [v4, v6]) in expected {
        for (client, server, bytes) in [("10.0.0.1", "10.0.0.2:80", v4), ("fd00::1", "[fd00::2]:80", v6)] {
            let client = (client.parse::<IpAddr>().unwrap(), port).into();
            let flow = flow_of(&flows, packet::TCP, client, server.parse().unwrap());
            assert_eq!(tally(flow.from_client()), Tally { packets: 1, bytes });
            assert_eq!(flow.from_client().tcp_flags, packet::ACK);
        }
    }
    watch.stop().assert_as_counted();
}

/// Sends frames as they are, through a packet socket.
fn send_frames(ns: &Netns, link: &str, frame: &[u8], times: usize) {
    let index = index(ns, link);
    ns.run(|| {
        // SAFETY: the address is a value of its type, and it and the frame outlive the calls.
        unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(socket >= 0);
            let mut to: libc::sockaddr_ll = std::mem::zeroed();
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_ifindex = index as i32;
            for _ in 0..times {
                let (to, length) = ((&raw const to).cast(), size_of_val(&to) as u32);
                let sent = libc::sendto(socket, frame.as_ptr().cast(), frame.len(), 0, to, length);
                assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
            }
            libc::close(socket);
        }
    });
}

/// On the sender's egress, the tag is in the frame. On ingress, the kernel removes it before the hook, as network cards
/// do: there it is metadata of the packet. Both count its bytes, as the interfaces do.
#[test]
fn vlan_tags() {
    needs_root!();
    let (a, b) = quiet_pair();
    let v4 = packet::ipv4(packet::TCP, &[], 1, 0, &packet::tcp(packet::SYN, &[], &[0; 100]));
    let v6 = packet::ipv6(packet::UDP, &packet::udp(&[0; 100]));
    let frames = [
        packet::ethernet(&[(0x8100, 5)], packet::IPV4, &v4),
        packet::ethernet(&[(0x8100, 0xe000 | 6)], packet::IPV6, &v6),
        packet::ethernet(
            &[(0x88a8, 7), (0x8100, 8)],
            packet::IPV4,
            &packet::ipv4(packet::UDP, &[], 2, 0, &packet::udp(b"q")),
        ),
    ];
    let mut sender = Watch::start(&a, "va", watching(&["va"]));
    let mut receiver = Watch::start(&b, "vb", watching(&["vb"]));
    for frame in &frames {
        send_frames(&a, "va", frame, 10);
    }
    for (flows, direction) in [(sender.settled(), "egress"), (receiver.settled(), "ingress")] {
        for (frame, (vlan, v6, protocol)) in frames.iter().zip([(5, false, 6), (6, true, 17), (7, false, 17)]) {
            let is = |f: &&Flow| f.v6() == v6 && f.protocol == protocol && f.sent.iter().any(|s| s.vlan == vlan);
            let flow = flows.iter().find(is).unwrap_or_else(|| panic!("no flow of VLAN {vlan}: {flows:#?}"));
            assert_eq!(tally(flow.from_client()), Tally { packets: 10, bytes: 10 * frame.len() as u64 });
            assert_eq!(flow.direction.name(), direction);
        }
    }
    // The receiver drops frames of an unknown VLAN, and counts that, after the hook.
    for watch in [sender, receiver] {
        let watched = watch.stop();
        assert_eq!(watched.books.ingress, watched.counters.rx);
        assert_eq!(watched.books.egress, watched.counters.tx);
    }
}

/// A packet passes two interfaces of one agent: one of them accounts for it.
#[test]
fn a_router_counts_once() {
    needs_root!();
    let (a, m, b) = (host("a"), host("m"), host("b"));
    connect(8, &End { ns: &a, link: "va", host: 1 }, &End { ns: &m, link: "ma", host: 2 });
    connect(9, &End { ns: &m, link: "mb", host: 1 }, &End { ns: &b, link: "vb", host: 2 });
    m.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    a.sh("ip route add default via 10.8.0.2");
    b.sh("ip route add default via 10.9.0.1");
    let agent = Agent::start(&m, watching(&["m*"]));
    let server: IpAddr = "10.9.0.2".parse().unwrap();
    let socket = b.run(|| UdpSocket::bind((server, 53)).unwrap());
    let client = a.run(|| udp_to(socket.local_addr().unwrap()));
    for _ in 0..100 {
        client.send(&[0; 100]).unwrap();
        socket.recv_from(&mut [0; 200]).unwrap();
    }
    let flows = agent.settled();
    let flow = flow_of(&flows, 17, client.local_addr().unwrap(), socket.local_addr().unwrap());
    assert_eq!(tally(flow.from_client()), Tally { packets: 100, bytes: 100 * (14 + 20 + 8 + 100) });
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.duplicate.packets == 100, "{sum}");
}
