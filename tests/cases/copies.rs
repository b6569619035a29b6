//! A packet that appears several times in a capture of several interfaces counts once.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::flows;
use crate::live::eventually;
use crate::live::net::{End, connect, host};
use crate::needs_root;
use crate::replay::{Scratch, replay, run, text};

/// A packet as in `tcpdump -i any`: seconds and microseconds, interface, sent by this host, type and IP packet.
#[derive(Clone)]
struct Seen {
    at: [u32; 2],
    ifindex: u32,
    kind: u8,
    ethertype: [u8; 2],
    packet: Vec<u8>,
}

/// A container's request as its node saw it: at the container's link, at the bridge and at the uplink.
fn seen() -> Vec<Seen> {
    let file = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/inputs/any.pcap")).unwrap();
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xa1b2_c3d4, 276));
    let (mut at, mut all) = (24, Vec::new());
    while at < file.len() {
        let data = &file[at + 16..at + 16 + word(at + 8) as usize];
        all.push(Seen {
            at: [word(at), word(at + 4)],
            ifindex: u32::from_be_bytes(data[4..8].try_into().unwrap()),
            kind: data[10],
            ethertype: data[..2].try_into().unwrap(),
            packet: data[20..].to_vec(),
        });
        at += 16 + data.len();
    }
    assert_eq!(all.len(), 168);
    all
}

impl Seen {
    fn cooked(&self) -> Vec<u8> {
        let start = [0, self.kind, 0, 1, 0, 6, 2, 0, 0, 0, 0, self.ifindex as u8, 0, 0];
        [&start[..], &self.ethertype, &self.packet].concat()
    }

    fn cooked2(&self) -> Vec<u8> {
        let start = [&self.ethertype[..], &[0, 0], &self.ifindex.to_be_bytes(), &[0, 1, self.kind, 6]].concat();
        [&start[..], &[0; 8], &self.packet].concat()
    }

    fn ethernet(&self, tag: Option<u8>) -> Vec<u8> {
        let tag = tag.map_or_else(Vec::new, |id| vec![0x81, 0, 0, id]);
        [&[2; 12][..], &tag, &self.ethertype, &self.packet].concat()
    }
}

fn pcap(link_type: u32, packets: &[(&Seen, Vec<u8>)]) -> Scratch {
    let mut file = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, link_type].map(u32::to_le_bytes).concat();
    for (seen, data) in packets {
        let length = data.len() as u32;
        file.extend([seen.at[0], seen.at[1], length, length].map(u32::to_le_bytes).concat());
        file.extend(data);
    }
    Scratch::holding("places.pcap", &file)
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}

fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &[&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat())
}

fn interface(link_type: u16, name: &str) -> Vec<u8> {
    let mut option = [&[2, 0][..], &(name.len() as u16).to_le_bytes(), name.as_bytes()].concat();
    option.resize(option.len().next_multiple_of(4), 0);
    block(1, &[&link_type.to_le_bytes()[..], &[0; 6], &option, &[0; 4]].concat())
}

fn packet(interface: u32, seen: &Seen, data: &[u8]) -> Vec<u8> {
    let us = u64::from(seen.at[0]) * 1_000_000 + u64::from(seen.at[1]);
    let length = data.len() as u32;
    let head = [interface, (us >> 32) as u32, us as u32, length, length].map(u32::to_le_bytes).concat();
    block(6, &[&head[..], data].concat())
}

fn counted(flow: &Value) -> [u64; 4] {
    ["client_packets", "server_packets", "client_retransmits", "server_retransmits"]
        .map(|name| flow[name].as_u64().unwrap())
}

/// Bytes of either side, converted to those at the container, where each packet began with an Ethernet header.
fn bytes(flow: &Value, header: u64) -> [u64; 2] {
    ["client", "server"].map(|side| {
        let count = |what| flow[format!("{side}_{what}")].as_u64().unwrap();
        count("bytes") + count("packets") * 14 - count("packets") * header
    })
}

/// Asserts the same flows as in the container's own capture.
fn assert_once(what: &str, flows: &[Value], header: u64) {
    let truth = &flows_at_the_container()[0];
    assert_eq!(flows.len(), 1, "{what}: {flows:#?}");
    assert_eq!(counted(truth), [27, 29, 0, 0]);
    assert_eq!(counted(&flows[0]), counted(truth), "{what}");
    assert_eq!(bytes(&flows[0], header), bytes(truth, 14), "{what}");
    for fact in ["client_ip", "client_port", "server_ip", "server_port", "app_protocol", "status"] {
        assert_eq!(flows[0][fact], truth[fact], "{what}");
    }
}

fn flows_at_the_container() -> Vec<Value> {
    flows("at_the_container.pcap")
}

#[test]
fn a_capture_of_all_interfaces_has_each_packet_once() {
    needs_root!();
    assert_once("cooked, version 2", &flows("any.pcap"), 20);
    let all = seen();
    let cooked: Vec<_> = all.iter().map(|seen| (seen, seen.cooked())).collect();
    assert_once("cooked, version 1", &replay(&pcap(113, &cooked).0), 16);
    // The copies of the bridge a second time: any number of copies counts once.
    let more: Vec<_> = all.iter().flat_map(|seen| [(seen, seen.cooked()), (seen, seen.cooked())]).collect();
    let file = pcap(113, &more);
    assert_once("cooked, version 1, twice", &replay(&file.0), 16);
    let log = text(&run(&[file.0.to_str().unwrap()], &[]).stderr);
    assert!(log.contains("336 packets") && log.contains("280 duplicate"), "{log}");
}

#[test]
fn interfaces_of_a_pcapng_file_are_told_apart() {
    needs_root!();
    let all = seen();
    let mut indexes: Vec<u32> = all.iter().map(|seen| seen.ifindex).collect();
    indexes.sort_unstable();
    indexes.dedup();
    assert_eq!(indexes.len(), 3);
    let number = |seen: &Seen| indexes.iter().position(|&index| index == seen.ifindex).unwrap() as u32;
    let described = indexes.iter().flat_map(|index| interface(1, &format!("eth{index}")));
    let head: Vec<u8> = section().into_iter().chain(described).collect();
    let of =
        |data: &dyn Fn(&Seen) -> Vec<u8>| all.iter().flat_map(|seen| packet(number(seen), seen, &data(seen))).collect();
    let body: Vec<u8> = of(&|seen| seen.ethernet(None));
    let file = Scratch::holding("places.pcapng", &[&head[..], &body].concat());
    assert_once("three interfaces", &replay(&file.0), 14);
    // A trunk with the packets of one VLAN: they have an additional tag.
    let tagged: Vec<u8> = of(&|seen| seen.ethernet((number(seen) == 2).then_some(7)));
    let file = Scratch::holding("places.pcapng", &[&head[..], &tagged].concat());
    let flows = replay(&file.0);
    assert_eq!((flows.len(), counted(&flows[0])), (1, [27, 29, 0, 0]), "a trunk");
    // An interface "any" in each of two sections: it is the same one.
    let half = all.len() / 2;
    let sections = [&all[..half], &all[half..]].map(|part| {
        let packets = part.iter().flat_map(|seen| packet(0, seen, &seen.cooked2()));
        [section(), interface(276, "any"), packets.collect()].concat()
    });
    let file = Scratch::holding("places.pcapng", &sections.concat());
    assert_once("cooked, version 2, in two sections", &replay(&file.0), 20);
}

/// A loopback device has each packet as it leaves and as it comes back.
#[test]
fn packets_of_a_loopback_device_count_once() {
    needs_root!();
    let all = seen();
    let first = all[0].ifindex;
    let once: Vec<Seen> = all.into_iter().filter(|seen| seen.ifindex == first).collect();
    assert_eq!(once.len(), 56);
    let ways = |seen: &Seen| [4, 0].map(|kind| Seen { kind, ifindex: 1, ..seen.clone() });
    let twice: Vec<Seen> = once.iter().flat_map(ways).collect();
    let cooked: Vec<_> = twice.iter().map(|seen| (seen, seen.cooked2())).collect();
    assert_once("version 2", &replay(&pcap(276, &cooked).0), 20);
    let cooked: Vec<_> = twice.iter().map(|seen| (seen, seen.cooked())).collect();
    assert_once("version 1", &replay(&pcap(113, &cooked).0), 16);
}

/// A real retransmission is no copy, even if all copies of it are in the capture, too.
#[test]
fn a_retransmission_is_no_copy() {
    needs_root!();
    let mut all = seen();
    let request = all.iter().position(|seen| seen.packet.windows(5).any(|bytes| bytes == b"GET /")).unwrap();
    let last = all.last().unwrap().at;
    let id = all[request].packet[4..6].to_vec();
    let copies = all.iter().filter(|seen| seen.packet[4..6] == id && seen.packet.ends_with(b"\r\n\r\n")).cloned();
    let mut again: Vec<Seen> = copies.collect();
    assert_eq!(again.len(), 3);
    for (n, seen) in (1..).zip(&mut again) {
        (seen.at, seen.packet[4]) = ([last[0], last[1] + 5 * n], seen.packet[4].wrapping_add(9));
    }
    all.extend(again);
    let cooked: Vec<_> = all.iter().map(|seen| (seen, seen.cooked())).collect();
    assert_eq!(counted(&replay(&pcap(113, &cooked).0)[0]), [28, 29, 1, 0], "version 1");
    let cooked: Vec<_> = all.iter().map(|seen| (seen, seen.cooked2())).collect();
    assert_eq!(counted(&replay(&pcap(276, &cooked).0)[0]), [28, 29, 1, 0], "version 2");
}

/// A container behind a bridge, its node, and a server outside: a capture of all of the node's interfaces yields the
/// same flows as one at the container's interface.
#[test]
fn captures_at_a_node_and_at_its_container_agree() {
    needs_root!();
    let [node, container, server] = ["node", "container", "server"].map(host);
    connect(1, &End { ns: &node, link: "veth1", host: 9 }, &End { ns: &container, link: "eth0", host: 2 });
    connect(2, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &server, link: "eth0", host: 2 });
    node.sh("ip addr flush dev veth1
             ip link add br0 type bridge && ip link set veth1 master br0 && ip link set br0 up
             ip addr add 10.1.0.1/24 dev br0 && echo 1 >/proc/sys/net/ipv4/ip_forward");
    container.sh("ip neigh flush dev eth0 && ip route add default via 10.1.0.1");
    server.sh("ip route add default via 10.2.0.1");
    for (ns, link) in [(&container, "eth0"), (&server, "eth0"), (&node, "veth1"), (&node, "up0"), (&node, "br0")] {
        ns.sh(&format!("ethtool -K {link} tso off gso off gro off >/dev/null"));
    }
    let captures = [(&container, "eth0", "EN10MB"), (&node, "any", "LINUX_SLL"), (&node, "any", "LINUX_SLL2")].map(
        |(ns, link, kind)| {
            let file = Scratch::new(&format!("{kind}.pcap"));
            let name = file.0.to_str().unwrap();
            let mut command = ns.command("tcpdump");
            command.args(["-Z", "root", "-U", "-i", link, "-y", kind, "-w", name, "udp", "port", "9000"]);
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            let messages = BufReader::new(child.stderr.take().unwrap());
            let started = messages.lines().any(|line| line.unwrap().contains("listening on"));
            assert!(started, "tcpdump does not capture {kind}");
            (file, child, kind)
        },
    );
    let to: SocketAddr = "10.2.0.2:9000".parse().unwrap();
    let receiver = server.run(|| UdpSocket::bind(to).unwrap());
    let sender = container.run(|| UdpSocket::bind("10.1.0.2:5000").unwrap());
    for n in 0..50u8 {
        sender.send_to(&[n; 100], to).unwrap();
        let (length, from) = receiver.recv_from(&mut [0; 200]).unwrap();
        assert_eq!(length, 100);
        receiver.send_to(&[n; 10], from).unwrap();
        sender.recv_from(&mut [0; 200]).unwrap();
    }
    // tcpdump gets packets from the kernel up to a second late.
    let lengths = || captures.each_ref().map(|(file, ..)| std::fs::metadata(&file.0).map_or(0, |file| file.len()));
    eventually("tcpdump has written all", || {
        let before = lengths();
        std::thread::sleep(Duration::from_millis(1500));
        (lengths() == before && !before.contains(&0)).then_some(())
    });
    for (file, mut child, kind) in captures {
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        child.wait().unwrap();
        let flows = replay(&file.0);
        assert_eq!(flows.len(), 1, "{kind}: {flows:#?}");
        assert_eq!([&flows[0]["client_packets"], &flows[0]["server_packets"]], [50, 50], "{kind}");
    }
}
