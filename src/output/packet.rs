//! The fields of a traced packet as they are printed. Their names are an interface for programs.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use etherparse::{Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use serde::Serialize;

use crate::bpf::{App, PacketView, TracedPacket};
use crate::flow::protocol_name;
use crate::line::{ICMP, TCP, WITH_PORTS, tcp_flags};

/// A traced packet as it is printed. A value that it does not have is absent.
#[derive(Clone, Debug, Serialize)]
pub struct PacketLine {
    /// The time at which it was seen, RFC 3339.
    pub time: String,
    /// Interface that it was seen at.
    pub interface: String,
    /// Hook that it was seen at.
    pub hook: &'static str,
    /// How the BPF program parsed it, and its verdict.
    #[serde(flatten)]
    pub parsed: ParsedPacket,
    /// TCP sequence number.
    pub seq: Option<u32>,
    /// TCP acknowledgement number.
    pub ack: Option<u32>,
    /// TCP window, unscaled.
    pub window: Option<u16>,
    /// `first` or `later`, for a fragment.
    pub fragment: Option<&'static str>,
    /// Number of packets on the wire: the segments of a GSO packet.
    pub packets: u64,
    /// Bytes of these packets, from the link-layer header on.
    pub bytes: u64,
    /// Length of the packet as the kernel handles it, in bytes.
    pub length: u32,
    /// The tunnel protocol, if it is a tunnel's packet.
    pub tunnel: Option<&'static str>,
    /// The packet inside the tunnel.
    pub inner: Option<ParsedPacket>,
    /// What `header` starts with: `ethernet` or `ip`.
    pub link: &'static str,
    /// The headers, in hexadecimal.
    pub header: String,
}

/// How the BPF program parsed a packet.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ParsedPacket {
    /// What the program did with it.
    pub verdict: &'static str,
    /// Protocol by name, else by number.
    pub protocol: Option<String>,
    /// Address of the sender.
    pub src_ip: Option<IpAddr>,
    /// Port of the sender, if the protocol has ports.
    pub src_port: Option<u16>,
    /// Address of the receiver.
    pub dst_ip: Option<IpAddr>,
    /// Port of the receiver, if the protocol has ports.
    pub dst_port: Option<u16>,
    /// TCP flags: `SYN|ACK`.
    pub tcp_flags: Option<String>,
    /// ICMP type.
    pub icmp_type: Option<u8>,
    /// ICMP code.
    pub icmp_code: Option<u8>,
    /// Outer VLAN id.
    pub vlan: Option<u16>,
}

impl ParsedPacket {
    fn of(view: &PacketView) -> ParsedPacket {
        let of_protocol = |protocols: &[u8]| view.protocol.is_some_and(|protocol| protocols.contains(&protocol));
        let [source, destination] = view.ports;
        let [icmp_type, icmp_code] = view.icmp;
        ParsedPacket {
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
    /// The fields of a packet at an interface. The offset leads from its clock to nanoseconds since 1970.
    pub fn new(packet: &TracedPacket, interface: String, clock_offset_ns: i64) -> PacketLine {
        let at = UNIX_EPOCH + Duration::from_nanos(packet.ns.saturating_add_signed(clock_offset_ns));
        let header = whole_header(packet);
        let tcp = packet.view.protocol == Some(TCP);
        PacketLine {
            time: humantime::format_rfc3339_nanos(at).to_string(),
            interface,
            hook: packet.hook.name(),
            parsed: ParsedPacket::of(&packet.view),
            seq: tcp.then_some(packet.seq),
            ack: tcp.then_some(packet.ack),
            window: tcp.then_some(packet.window),
            fragment: fragment(&header, packet.ethernet),
            packets: packet.packets,
            bytes: packet.bytes,
            length: packet.length + packet.vlan_tag.map_or(0, |_| VLAN),
            tunnel: packet.inner.as_ref().and_then(|(tunnel, _)| tunnel.map(App::name)),
            inner: packet.inner.as_ref().map(|(_, view)| ParsedPacket::of(view)),
            link: if packet.ethernet { "ethernet" } else { "ip" },
            header: header.iter().fold(String::new(), |mut hex, byte| {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
        }
    }
}

/// Length of a VLAN tag, in bytes.
const VLAN: u32 = 4;
/// Length of both Ethernet addresses, in bytes.
const MACS: usize = 12;

/// The headers with the VLAN tag that the driver removed.
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
