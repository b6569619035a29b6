//! The same packet seen at several places counts once; different packets at several places count separately.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use netmon::bpf::Frame;
use netmon::flow::{Flow, Outcome};
use socket2::{Domain, Protocol, Socket, Type};

use super::flows;
use crate::live::agent::{Agent, watching};
use crate::live::eventually;
use crate::live::net::{End, connect, host};
use crate::needs_root;
use crate::support::kernel::{Kernel, small};
use crate::support::netns::Netns;
use crate::support::packet::{ACK, IPV4, IPV6, TCP, ethernet, ipv4, ipv6, tcp};

/// Two bridges of a host, each with two workloads; the host has no address on them.
struct Tenants {
    host: Netns,
    workloads: [[Netns; 2]; 2],
}

fn tenants() -> Tenants {
    let host_ns = host("tenants");
    let workloads = ["red", "blue"].map(|bridge| {
        host_ns.sh(&format!("ip link add {bridge} type bridge && ip link set {bridge} up"));
        [1, 2].map(|number| {
            let ns = host("workload");
            host_ns.sh(&format!(
                "ip link add {bridge}{number} type veth peer name eth0 netns {}
                 ip link set {bridge}{number} master {bridge} && ip link set {bridge}{number} up",
                ns.name
            ));
            ns.sh(&format!("ip addr add 10.5.0.{}/24 dev eth0 && ip link set eth0 up", number + 1));
            ns
        })
    });
    Tenants { host: host_ns, workloads }
}

fn all_links(ns: &Netns) -> Agent {
    Agent::start(ns, watching(&["*"]))
}

/// The number of flows to a port, and the packets and bytes sent to it.
fn sent_to(flows: &[Flow], port: u16) -> (usize, u64, u64) {
    let of: Vec<_> = flows.iter().filter(|flow| flow.key().ends.iter().any(|end| end.port == port)).collect();
    let sum =
        |count: fn(&netmon::flow::Sent) -> u64| of.iter().map(|flow| flow.sent.iter().map(count).sum::<u64>()).sum();
    (of.len(), sum(|sent| sent.packets), sum(|sent| sent.bytes))
}

#[test]
fn tenants_may_have_the_same_addresses() {
    needs_root!();
    let net = tenants();
    let agent = all_links(&net.host);
    let talks = net.workloads.each_ref().map(|[sender, receiver]| {
        let receiver = receiver.run(|| UdpSocket::bind("10.5.0.3:9000").unwrap());
        (sender.run(|| UdpSocket::bind("10.5.0.2:50000").unwrap()), receiver)
    });
    for _ in 0..100 {
        for ((sender, receiver), length) in talks.iter().zip([100, 1000]) {
            sender.send_to(&vec![7; length], "10.5.0.3:9000").unwrap();
            assert_eq!(receiver.recv_from(&mut [0; 2000]).unwrap().0, length);
        }
        std::thread::sleep(Duration::from_millis(15));
    }
    let flows = agent.settled();
    assert_eq!(sent_to(&flows, 9000), (2, 200, 14_200 + 104_200), "{flows:#?}");
}

/// Clients that request an address have none yet, so all have the same ends.
#[test]
fn clients_without_an_address_are_counted_separately() {
    needs_root!();
    let net = tenants();
    net.host.sh("ip addr add 10.5.0.1/24 dev red");
    let agent = all_links(&net.host);
    let clients = net.workloads[0].each_ref().map(|ns| {
        ns.sh("ip addr flush dev eth0");
        ns.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.bind_device(Some(b"eth0")).unwrap();
            socket.bind(&SocketAddr::from(([0, 0, 0, 0], 68)).into()).unwrap();
            socket
        })
    });
    for _ in 0..10 {
        for client in &clients {
            client.send_to(&[1; 300], &SocketAddr::from(([255; 4], 67)).into()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let flows = agent.settled();
    assert_eq!(sent_to(&flows, 67), (1, 20, 20 * 342), "{flows:#?}");
}

/// An ICMP error about a translated connection is one packet, whatever its addresses on either side.
#[test]
fn an_error_that_is_translated_back_counts_once() {
    needs_root!();
    let [node, pod, outside] = ["node", "pod", "outside"].map(host);
    connect(8, &End { ns: &node, link: "vpod", host: 1 }, &End { ns: &pod, link: "eth0", host: 2 });
    connect(9, &End { ns: &node, link: "vext", host: 1 }, &End { ns: &outside, link: "eth0", host: 2 });
    pod.sh("ip route add default via 10.8.0.1");
    node.sh("echo 1 >/proc/sys/net/ipv4/ip_forward && ip route add default via 10.9.0.2
             nft \"add table ip nat
               add chain ip nat post { type nat hook postrouting priority 100 ; }
               add chain ip nat pre { type nat hook prerouting priority -100 ; }
               add rule ip nat post ip saddr 10.8.0.0/24 oifname vext masquerade
               add rule ip nat pre ip daddr 10.96.0.11 udp dport 53 dnat to 10.9.0.2:5300\"");
    outside.sh("echo 1 >/proc/sys/net/ipv4/ip_forward && ip route add unreachable 198.51.100.0/24");
    outside.sh("echo 0 >/proc/sys/net/ipv4/icmp_ratemask");
    let agent = all_links(&node);
    for to in ["10.9.0.2:9999", "10.96.0.11:53", "198.51.100.9:80", "198.51.100.10:80"] {
        for _ in 0..3 {
            let socket = pod.run(|| UdpSocket::bind("10.8.0.2:0").unwrap());
            socket.connect(to).unwrap();
            socket.send(b"hello").unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // The number that it counts itself.
    let snmp = outside.sh("grep ^Icmp: /proc/net/snmp");
    let [names, values] = [0, 1].map(|line| snmp.lines().nth(line).unwrap().split(' '));
    let sent = names.zip(values).find(|(name, _)| *name == "OutDestUnreachs").unwrap().1.parse::<u64>().unwrap();
    assert!(sent >= 6, "{sent}: {snmp}");
    let flows = agent.settled();
    let icmp: Vec<_> = flows.iter().filter(|flow| flow.protocol == 1).collect();
    let counted = icmp.iter().map(|flow| flow.sent[0].packets + flow.sent[1].packets).sum::<u64>();
    // It was once twice as many. An error whose record is read before the kernel has reported the translation may still
    // count at both sides.
    assert!((sent..sent + 3).contains(&counted), "{counted} of {sent}: {icmp:#?}");
    let bytes = icmp.iter().map(|flow| flow.sent[0].bytes + flow.sent[1].bytes).sum::<u64>();
    assert_eq!(bytes, counted * (14 + 20 + 8 + 20 + 8 + 5), "{icmp:#?}");
    eventually("each error ends the flow that it is about", || {
        let failed = |flow: &&Flow| flow.protocol == 17 && matches!(flow.outcome, Some(Outcome::Failed(_)));
        (agent.handle.flows().iter().filter(failed).count() as u64 == sent).then_some(())
    });
}

#[test]
fn ip_is_found_behind_any_stack_of_labels_and_tags() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let inside = [ipv4(TCP, &[], 7, 0, &tcp(ACK, &[], b"hello")), ipv6(TCP, &tcp(ACK, &[], b"hello"))];
    let labels = |count: u8| -> Vec<u8> { (1..=count).flat_map(|n| [0, 1, 0x40 | u8::from(n == count), 64]).collect() };
    let session = |code: u8, protocol: u8| vec![0x11, code, 0, 7, 0, 99, 0, protocol];
    let tags = |count: usize| vec![(0x8100, 5); count];
    let mut judge = |name: &str, packet: &[u8]| {
        let (records, books) = kernel.one(true, packet, Frame::default());
        let flows =
            records.iter().filter(|record| record.source.port == 40000 && record.protocol == TCP).count() as u64;
        assert_eq!(flows + books.not_ip.packets + books.malformed.packets, 1, "{name}");
        match (flows, books.not_ip.packets) {
            (1, _) => assert_eq!(records[0].bytes, packet.len() as u64, "{name}"),
            (_, 1) => return "not IP",
            _ => return "malformed",
        }
        "flow"
    };
    for (v6, ip) in inside.iter().enumerate() {
        let (kind, protocol) = if v6 == 1 { (IPV6, 0x57) } else { (IPV4, 0x21) };
        for unicast in [0x8847, 0x8848] {
            for count in [1, 2, 4, 6] {
                let packet = ethernet(&[], unicast, &[&labels(count)[..], ip].concat());
                assert_eq!(judge("labels", &packet), "flow", "{count}");
                assert_eq!(judge("cut", &packet[..14 + 4 * usize::from(count)]), "malformed", "{count}");
            }
            assert_eq!(judge("seven labels", &ethernet(&[], unicast, &[&labels(7)[..], ip].concat())), "not IP");
        }
        let in_session = [&session(0, protocol)[..], ip].concat();
        for count in [0, 1, 2, 7] {
            assert_eq!(judge("session", &ethernet(&tags(count), 0x8864, &in_session)), "flow", "{count} tags");
            let labelled = [&labels(1)[..], ip].concat();
            assert_eq!(judge("label", &ethernet(&tags(count), 0x8847, &labelled)), "flow", "{count} tags");
        }
        for count in [3, 4, 8] {
            assert_eq!(judge("tags", &ethernet(&tags(count), kind, ip)), "flow", "{count}");
        }
        assert_eq!(judge("discovery", &ethernet(&[], 0x8863, &in_session)), "not IP");
        assert_eq!(judge("no data", &ethernet(&[], 0x8864, &[&session(9, protocol)[..], ip].concat())), "not IP");
        assert_eq!(judge("LCP", &ethernet(&[], 0x8864, &[&session(0, 0xc0)[..], ip].concat())), "not IP");
        assert_eq!(judge("cut", &ethernet(&[], 0x8864, &session(0, protocol)[..7])), "malformed");
        // A pseudowire starts with a control word (RFC 4385).
        assert_eq!(judge("wire", &ethernet(&[], 0x8847, &[&labels(1)[..], &[0; 4], ip].concat())), "not IP");
    }
}

#[test]
fn packets_behind_labels_sessions_and_many_tags_are_parsed() {
    needs_root!();
    let flows = flows("encapsulations.pcap");
    let dns = flows.iter().find(|flow| flow["server_port"] == 53).unwrap();
    assert_eq!([&dns["client_packets"], &dns["client_bytes"]], [3, 231], "MPLS, PPPoE, three tags: {flows:#?}");
    assert_eq!(flows.len(), 3, "ERSPAN and GTP-U count by their outer packets");
}
