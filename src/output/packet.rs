//! A traced packet as it is printed. The names of fields are an interface: programs read them.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use etherparse::{Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use serde::Serialize;

use crate::bpf::{App, PacketView, TracedPacket};
use crate::flow::protocol_name;
use crate::line::{ICMP, TCP, WITH_PORTS, tcp_flags};

/// A packet. What it does not have is absent.
#[derive(Clone, Debug, Serialize)]
pub struct PacketLine {
    /// When it was seen, RFC 3339.
    pub time: String,
    /// Where.
    pub interface: String,
    /// On which side.
    pub hook: &'static str,
    /// What the program took it for, and what became of it.
    #[serde(flatten)]
    pub taken: Taken,
    /// TCP.
    pub seq: Option<u32>,
    /// TCP.
    pub ack: Option<u32>,
    /// TCP, unscaled.
    pub window: Option<u16>,
    /// `first` or `later`.
    pub fragment: Option<&'static str>,
    /// Packets on the wire: the segments of a GSO packet.
    pub packets: u64,
    /// Of these, from the link-layer header on.
    pub bytes: u64,
    /// Of the packet as the kernel handed it around.
    pub length: u32,
    /// What it carries, if it is a tunnel's.
    pub tunnel: Option<&'static str>,
    /// The packet in it.
    pub inner: Option<Taken>,
    /// `ethernet` or `ip`: what `header` starts with.
    pub link: &'static str,
    /// Headers, hexadecimal.
    pub header: String,
}

/// What the program took a packet for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Taken {
    /// What became of it.
    pub verdict: &'static str,
    /// By name, else by number.
    pub protocol: Option<String>,
    /// The sender.
    pub src_ip: Option<IpAddr>,
    /// Of protocols that have ports.
    pub src_port: Option<u16>,
    /// The receiver.
    pub dst_ip: Option<IpAddr>,
    /// Of protocols that have ports.
    pub dst_port: Option<u16>,
    /// `SYN|ACK`.
    pub tcp_flags: Option<String>,
    /// ICMP.
    pub icmp_type: Option<u8>,
    /// ICMP.
    pub icmp_code: Option<u8>,
    /// Outer VLAN id.
    pub vlan: Option<u16>,
}

impl Taken {
    fn of(view: &PacketView) -> Taken {
        let of_protocol = |protocols: &[u8]| view.protocol.is_some_and(|protocol| protocols.contains(&protocol));
        let [source, destination] = view.ports;
        let [icmp_type, icmp_code] = view.icmp;
        Taken {
            verdict: view.fate.name(),
            protocol: view.protocol.map(|protocol| protocol_name(protocol).into_owned()),
            src_ip: view.ends.map(|ends| ends[0]),
            src_port: of_protocol(&WITH_PORTS).then_some(source),
            dst_ip: view.ends.map(|ends| ends[1]),
            dst_port: of_protocol(&WITH_PORTS).then_some(destination),
            tcp_flags: of_protocol(&[TCP]).then(|| tcp_flags(view.tcp_flags)),
            icmp_type: of_protocol(&ICMP).then_some(icmp_type),
            icmp_code: of_protocol(&ICMP).then_some(icmp_code),
            vlan: (view.vlan != 0).then_some(view.vlan),
        }
    }
}

impl PacketLine {
    /// Of a packet at an interface; the offset leads from its clock to nanoseconds since 1970.
    pub fn new(packet: &TracedPacket, interface: String, clock_offset_ns: i64) -> PacketLine {
        let at = UNIX_EPOCH + Duration::from_nanos(packet.ns.saturating_add_signed(clock_offset_ns));
        let header = whole_header(packet);
        let tcp = packet.view.protocol == Some(TCP);
        PacketLine {
            time: humantime::format_rfc3339_nanos(at).to_string(),
            interface,
            hook: packet.hook.name(),
            taken: Taken::of(&packet.view),
            seq: tcp.then_some(packet.seq),
            ack: tcp.then_some(packet.ack),
            window: tcp.then_some(packet.window),
            fragment: fragment(&header, packet.ethernet),
            packets: packet.packets,
            bytes: packet.bytes,
            length: packet.length + packet.vlan_tag.map_or(0, |_| VLAN),
            tunnel: packet.inner.as_ref().and_then(|(tunnel, _)| tunnel.map(App::name)),
            inner: packet.inner.as_ref().map(|(_, view)| Taken::of(view)),
            link: if packet.ethernet { "ethernet" } else { "ip" },
            header: header.iter().fold(String::new(), |mut hex, byte| {
                // A String takes everything.
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
        }
    }
}

/// Bytes of a VLAN tag.
const VLAN: u32 = 4;
/// Bytes of both addresses of Ethernet.
const MACS: usize = 12;

/// With the tag that the driver took out.
fn whole_header(packet: &TracedPacket) -> Vec<u8> {
    let mut header = packet.header.clone();
    if let Some(tag) = packet.vlan_tag.filter(|_| packet.ethernet && header.len() >= MACS) {
        header.splice(MACS..MACS, tag.into_iter().flat_map(u16::to_be_bytes));
    }
    header
}

fn fragment(header: &[u8], ethernet: bool) -> Option<&'static str> {
    let packet =
        if ethernet { LaxSlicedPacket::from_ethernet(header).ok()? } else { LaxSlicedPacket::from_ip(header).ok()? };
    let (offset, more) = match packet.net? {
        LaxNetSlice::Ipv4(ip) => (ip.header().fragments_offset().value(), ip.header().more_fragments()),
        LaxNetSlice::Ipv6(ip) => ip.extensions().clone().into_iter().find_map(|extension| match extension {
            Ipv6ExtensionSlice::Fragment(fragment) => {
                Some((fragment.fragment_offset().value(), fragment.more_fragments()))
            }
            _ => None,
        })?,
        LaxNetSlice::Arp(_) => return None,
    };
    match (offset, more) {
        (0, false) => None,
        (0, true) => Some("first"),
        _ => Some("later"),
    }
}
