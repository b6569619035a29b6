//! Classifies packets with the header types of the `etherparse` crate and the rules of bpf/parse_any.h.

use std::collections::{BTreeMap, HashMap};

use etherparse::{
    EtherType, Ethernet2HeaderSlice, IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, LaxNetSlice, LaxSlicedPacket, SingleVlanHeaderSlice, TcpHeaderSlice,
    TransportSlice, UdpHeaderSlice, ether_type, ip_number,
};
use netmon::bpf::Endpoint;
use netmon::bpf::numbers::{MOST_EXTENSIONS, MOST_SHIMS};

use super::{Expect, Flags, Key};

/// Predicts the results of packets, in their order, because later fragments depend on the first one of the datagram.
#[derive(Default)]
pub struct Oracle {
    /// First fragments, by addresses, identification and protocol.
    datagrams: HashMap<([u8; 32], u32, IpNumber), (Key, Flags)>,
    /// Number of packets to which each rule applied.
    pub classes: BTreeMap<&'static str, u64>,
    /// What the current packet carries if it is a tunnel's, and whether the rest comes in other fragments.
    carried: Option<(Carrier, Vec<u8>, bool)>,
    /// Length of the current IP packet in bytes, according to its header.
    length: usize,
}

/// Possible tunnels, by protocol and port.
#[derive(Clone, Copy)]
enum Carrier {
    Vxlan,
    Geneve,
    Gre,
    Ip(EtherType),
}

/// The header that a packet starts with.
#[derive(Clone, Copy)]
enum Start {
    Ethernet,
    Ip(EtherType),
}

/// A header that is cut short or contradicts itself.
struct Broken;

impl Oracle {
    fn count(&mut self, class: &'static str) {
        *self.classes.entry(class).or_default() += 1;
    }

    /// The result for a packet, and for the one in it with its length.
    pub fn views(&mut self, packet: &[u8]) -> (Expect, Option<(Expect, u64)>) {
        self.carried = None;
        let outer = self.view(packet, Start::Ethernet, None);
        let Some((carrier, payload, cut)) = self.carried.take() else { return (outer, None) };
        let Some((start, at)) = opened(carrier, &payload) else {
            self.count("no tunnel");
            return (outer, None);
        };
        self.count("tunnel");
        let frame = &payload[at..];
        self.length = frame.len();
        let inner = self.view(frame, start, Some(cut));
        let bytes = if matches!(inner, Expect::Flow(..)) { self.length } else { frame.len() };
        self.count(match inner {
            Expect::Flow(..) => "inner flow",
            Expect::NotIp => "inner not IP",
            Expect::Malformed => "inner malformed",
        });
        (outer, Some((inner, bytes as u64)))
    }

    /// With `inner`, the packet is in a tunnel; its value says whether the rest of it comes in other fragments.
    fn view(&mut self, packet: &[u8], start: Start, inner: Option<bool>) -> Expect {
        let expect = self.walk(packet, start, inner).unwrap_or(Expect::Malformed);
        self.count(match expect {
            Expect::Flow(..) => "flow",
            Expect::NotIp => "not IP",
            Expect::Malformed => "malformed",
        });
        expect
    }

    fn walk(&mut self, packet: &[u8], start: Start, inner: Option<bool>) -> Result<Expect, Broken> {
        let (mut rest, mut ids) = (packet, Vec::new());
        let mut ethertype = match start {
            Start::Ip(ethertype) => ethertype,
            Start::Ethernet => {
                let header = Ethernet2HeaderSlice::from_slice(packet).map_err(|_| Broken)?;
                rest = &packet[14..];
                header.ether_type()
            }
        };
        while matches!(start, Start::Ethernet) && ids.len() < 2 && is_tag(ethertype) {
            let tag = SingleVlanHeaderSlice::from_slice(rest).map_err(|_| Broken)?;
            ids.push(tag.vlan_identifier().value());
            ethertype = tag.ether_type();
            rest = &rest[4..];
        }
        for _ in 0..MOST_SHIMS {
            match (ethertype, rest) {
                (tag, [_, _, high, low, ..]) if is_tag(tag) => {
                    ethertype = EtherType(u16::from_be_bytes([*high, *low]));
                    rest = &rest[4..];
                }
                // RFC 3032: the bottom of the stack is marked, and the type of what follows is not given.
                (EtherType(0x8847 | 0x8848), [_, _, bottom, _, first, ..]) => {
                    if bottom & 1 != 0 {
                        ethertype = match first >> 4 {
                            4 => ether_type::IPV4,
                            6 => ether_type::IPV6,
                            _ => EtherType(0),
                        };
                    }
                    rest = &rest[4..];
                    self.count("label");
                }
                // RFC 2516: version and type 1, session data, then the PPP protocol number.
                (EtherType(0x8864), [start, code, _, _, _, _, high, low, ..]) => {
                    ethertype = match (start, code, high, low) {
                        (0x11, 0, 0, 0x21) => ether_type::IPV4,
                        (0x11, 0, 0, 0x57) => ether_type::IPV6,
                        _ => EtherType(0),
                    };
                    rest = &rest[8..];
                    self.count("session");
                }
                (EtherType(0x8847 | 0x8848 | 0x8864), _) => return Err(Broken),
                (tag, _) if is_tag(tag) => return Err(Broken),
                _ => break,
            }
        }
        // Id 0 is a priority tag, not a VLAN.
        ids.retain(|id| *id != 0);
        ids.resize(2, 0);
        let nowhere = Endpoint { address: [0; 16], port: 0 };
        let mut key = Key {
            v6: false,
            source: nowhere,
            destination: nowhere,
            protocol: 0,
            vlan: ids[0],
            inner_vlan: ids[1],
            inner: inner.is_some(),
        };
        let cut = inner.unwrap_or_default();
        let expect = match ethertype {
            ether_type::IPV4 => self.ipv4(rest, key, cut),
            ether_type::IPV6 => {
                key.v6 = true;
                self.ipv6(rest, key, cut)
            }
            _ => Ok(Expect::NotIp),
        };
        self.length += packet.len() - rest.len();
        expect
    }

    fn ipv4(&mut self, packet: &[u8], mut key: Key, cut: bool) -> Result<Expect, Broken> {
        let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| Broken)?;
        let mut end = usize::from(header.total_len());
        if end == 0 {
            // The field has no room for the length of GSO packets beyond 64 KiB (BIG TCP): the length of the packet
            // itself counts.
            self.count("rule: total length 0 is all of the packet");
            end = packet.len();
        }
        self.length = if cut { end } else { end.min(packet.len()) };
        let payload = packet[..end.min(packet.len())].get(header.slice().len()..).ok_or(Broken)?;
        key.source.address[..4].copy_from_slice(&header.source());
        key.destination.address[..4].copy_from_slice(&header.destination());
        let offset = header.fragments_offset().value();
        let mut datagram = None;
        if offset != 0 || header.more_fragments() {
            datagram = Some((header.identification().into(), header.protocol()));
        }
        if offset != 0 {
            return Ok(self.later_fragment(key, datagram.unwrap_or_default(), header.protocol()));
        }
        self.payload(payload, key, header.protocol(), datagram)
    }

    fn ipv6(&mut self, packet: &[u8], mut key: Key, cut: bool) -> Result<Expect, Broken> {
        let header = Ipv6HeaderSlice::from_slice(packet).map_err(|_| Broken)?;
        let mut length = usize::from(header.payload_length());
        if length == 0 {
            self.count("rule: payload length 0 is all of the packet"); // RFC 2675 jumbograms, BIG TCP
            length = packet.len() - 40;
        }
        self.length = if cut { 40 + length } else { packet.len().min(40 + length) };
        key.source.address = header.source();
        key.destination.address = header.destination();
        self.payload(&packet[40..packet.len().min(40 + length)], key, header.next_header(), None)
    }

    fn later_fragment(&mut self, mut key: Key, datagram: (u32, IpNumber), protocol: IpNumber) -> Expect {
        let first = self.datagrams.get(&(addresses(&key), datagram.0, datagram.1)).copied();
        self.count(if first.is_some() { "fragment, ports known" } else { "fragment, ports unknown" });
        let Some((known, flags)) = first else {
            key.protocol = protocol.0;
            return Expect::Flow(key, Flags::default());
        };
        (key.protocol, key.source.port, key.destination.port) =
            (known.protocol, known.source.port, known.destination.port);
        // Flags of TCP were reported with the first fragment.
        Expect::Flow(key, Flags { icmp: flags.icmp, ..Flags::default() })
    }

    /// Extension headers, then the transport header.
    fn payload(
        &mut self,
        mut rest: &[u8],
        mut key: Key,
        mut next: IpNumber,
        mut datagram: Option<(u32, IpNumber)>,
    ) -> Result<Expect, Broken> {
        for _ in 0..MOST_EXTENSIONS {
            let length;
            match next {
                // RFC 4302: at least twelve bytes. The kernel's own walk (ipv6_skip_exthdr) also accepts eight.
                ip_number::AUTH if rest.len() >= 8 && rest[1] == 0 => {
                    self.count("rule: AH of 8 bytes");
                    (next, length) = (IpNumber(rest[0]), 8);
                }
                ip_number::AUTH => {
                    let header = IpAuthHeaderSlice::from_slice(rest).map_err(|_| Broken)?;
                    (next, length) = (header.next_header(), header.slice().len());
                }
                ip_number::IPV6_FRAG if key.v6 => {
                    let header = Ipv6FragmentHeaderSlice::from_slice(rest).map_err(|_| Broken)?;
                    next = header.next_header();
                    if header.is_fragmenting_payload() {
                        datagram = Some((header.identification(), next));
                    }
                    if header.fragment_offset().value() != 0 {
                        return Ok(self.later_fragment(key, datagram.unwrap_or_default(), next));
                    }
                    length = 8;
                }
                ip_number::IPV6_HOP_BY_HOP | ip_number::IPV6_ROUTE | ip_number::IPV6_DEST_OPTIONS if key.v6 => {
                    let header = Ipv6RawExtHeaderSlice::from_slice(rest).map_err(|_| Broken)?;
                    (next, length) = (header.next_header(), header.slice().len());
                }
                _ => break,
            }
            self.count("extension header");
            rest = &rest[length..];
        }
        key.protocol = next.0;
        let flags = transport(rest, &mut key)?;
        let carrier = match IpNumber(key.protocol) {
            ip_number::UDP if [4789, 8472].contains(&key.destination.port) => Some(Carrier::Vxlan),
            ip_number::UDP if key.destination.port == 6081 => Some(Carrier::Geneve),
            ip_number::GRE => Some(Carrier::Gre),
            ip_number::IPV4 => Some(Carrier::Ip(ether_type::IPV4)),
            ip_number::IPV6 => Some(Carrier::Ip(ether_type::IPV6)),
            _ => None,
        };
        // Only one level: a tunnel in the inner packet is payload.
        if let Some(carrier) = carrier.filter(|_| !key.inner) {
            let payload = if next == ip_number::UDP { &rest[8..] } else { rest };
            self.carried = Some((carrier, payload.to_vec(), datagram.is_some()));
        }
        if let Some((id, protocol)) = datagram {
            self.datagrams.insert((addresses(&key), id, protocol), (key, flags));
            self.count("first fragment");
        }
        Ok(Expect::Flow(key, flags))
    }

    /// Compares with etherparse's own parser, if that reaches TCP or UDP ports and no rule differs between the two.
    pub fn second_opinion(&mut self, packet: &[u8], expect: &Expect) {
        let Ok(lax) = LaxSlicedPacket::from_ethernet(packet) else { return };
        let (source, destination) = match &lax.transport {
            Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
            Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
            _ => return self.count("etherparse: no ports"),
        };
        let v6 = match &lax.net {
            // It ignores a total length shorter than the header, whether 0 or not.
            Some(LaxNetSlice::Ipv4(ip)) if ip.header().total_len() < u16::from(ip.header().ihl()) * 4 => {
                return self.count("etherparse: ignores the total length");
            }
            Some(LaxNetSlice::Ipv4(_)) => false,
            Some(LaxNetSlice::Ipv6(_)) => true,
            _ => return self.count("etherparse: no IP"),
        };
        let header = match &lax.net {
            Some(LaxNetSlice::Ipv4(ip)) => ip.header().slice(),
            Some(LaxNetSlice::Ipv6(ip)) => ip.header().slice(),
            _ => return self.count("etherparse: no IP"),
        };
        let at = header.as_ptr() as usize - packet.as_ptr() as usize;
        if packet[at - 2..at] != if v6 { [0x86, 0xdd] } else { [0x08, 0x00] } {
            return self.count("etherparse: goes by the version, not by the EtherType");
        }
        if lax.link_exts.len() > 2 {
            return self.count("etherparse: three tags");
        }
        if lax.link_exts.len() > lax.vlan_ids().len() {
            return self.count("etherparse: MACsec in the clear");
        }
        match expect {
            Expect::Flow(key, _) if (key.v6, key.source.port, key.destination.port) == (v6, source, destination) => {
                self.count("etherparse: agrees");
            }
            // The chain is too long for the programs.
            Expect::Flow(key, _) if v6 && ip_has_extension(key.protocol) => self.count("etherparse: longer chain"),
            _ => panic!("etherparse has ports {source} and {destination}, expected was {expect:?}: {packet:02x?}"),
        }
    }
}

/// The header that starts in a tunnel's payload, and its offset, if the tunnel's header conforms to the RFCs (7348 with
/// the group policy draft, 8926, 2784 and 2890).
fn opened(carrier: Carrier, payload: &[u8]) -> Option<(Start, usize)> {
    let inner = |number: u16| match EtherType(number) {
        EtherType(0x6558) => Some(Start::Ethernet),
        ip @ (ether_type::IPV4 | ether_type::IPV6) => Some(Start::Ip(ip)),
        _ => None,
    };
    let (start, at) = match (carrier, payload) {
        (Carrier::Vxlan, [0x08, 0, 0, 0, _, _, _, 0, ..]) => (Start::Ethernet, 8),
        (Carrier::Vxlan, [0x88, policy, _, _, _, _, _, 0, ..]) if policy & !0x48 == 0 => (Start::Ethernet, 8),
        (Carrier::Geneve, [words @ 0..64, 0 | 64, high, low, _, _, _, 0, ..]) => {
            (inner(u16::from_be_bytes([*high, *low]))?, 8 + 4 * usize::from(*words))
        }
        (Carrier::Gre, [flags, 0, high, low, ..]) if flags & !0xb0 == 0 => {
            let more = (flags & 0xb0).count_ones() as usize;
            (inner(u16::from_be_bytes([*high, *low]))?, 4 + 4 * more)
        }
        (Carrier::Ip(ip), [first, ..]) if first >> 4 == if ip == ether_type::IPV4 { 4 } else { 6 } => {
            (Start::Ip(ip), 0)
        }
        _ => return None,
    };
    (at <= payload.len()).then_some((start, at))
}

fn ip_has_extension(protocol: u8) -> bool {
    [0, 43, 44, 51, 60].contains(&protocol)
}

fn is_tag(t: EtherType) -> bool {
    [ether_type::VLAN_TAGGED_FRAME, ether_type::PROVIDER_BRIDGING, ether_type::VLAN_DOUBLE_TAGGED_FRAME].contains(&t)
}

fn addresses(key: &Key) -> [u8; 32] {
    let mut both = [0; 32];
    both[..16].copy_from_slice(&key.source.address);
    both[16..].copy_from_slice(&key.destination.address);
    both
}

/// Ports and flags. etherparse does not know SCTP, and for ICMP it requires more than the eight bytes that identify the
/// flow.
fn transport(rest: &[u8], key: &mut Key) -> Result<Flags, Broken> {
    let (mut ports, mut flags) = ((0, 0), Flags::default());
    let word = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match IpNumber(key.protocol) {
        ip_number::TCP => {
            let tcp = TcpHeaderSlice::from_slice(rest).map_err(|_| Broken)?;
            ports = (tcp.source_port(), tcp.destination_port());
            let bits = [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg(), tcp.ece(), tcp.cwr()];
            flags = Flags::tcp(bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
        }
        ip_number::UDP => {
            let udp = UdpHeaderSlice::from_slice(rest).map_err(|_| Broken)?;
            ports = (udp.source_port(), udp.destination_port());
        }
        ip_number::SCTP if rest.len() < 12 => return Err(Broken),
        ip_number::SCTP => {
            ports = (word(0), word(2));
            // INIT and INIT ACK are types of the first chunk.
            (flags.syn, flags.syn_ack) = (rest.get(12) == Some(&1), rest.get(12) == Some(&2));
        }
        ip_number::ICMP | ip_number::IPV6_ICMP if rest.len() < 8 => return Err(Broken),
        number @ (ip_number::ICMP | ip_number::IPV6_ICMP) => {
            flags.icmp = (rest[0], rest[1]);
            let queries: &[u8] = if number == ip_number::ICMP { &[0, 8, 13, 14] } else { &[128, 129] };
            if queries.contains(&rest[0]) {
                ports = (word(4), word(4));
            }
        }
        _ => {}
    }
    (key.source.port, key.destination.port) = ports;
    Ok(flags)
}
