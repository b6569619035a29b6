//! Converts packets of a capture to Ethernet frames, the only frames that the BPF programs take here.

use anyhow::{Result, bail};

use super::capture::Packet;

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const NOT_IP: u16 = 0xffff;
/// "sent by us", packet type of the cooked formats.
const SENT: u16 = 4;

/// The header that the packets of an interface start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Ethernet,
    /// The IP header.
    Raw,
    /// The address family, as the capturing system numbers it.
    Null,
    /// Linux "cooked", the format of the pseudo-interface "any", version 1.
    Cooked,
    /// Linux "cooked", version 2.
    Cooked2,
    /// PPP, with or without an address byte and a control byte.
    Ppp,
    /// PPP after a byte for the direction, or with that byte in place of the address.
    PppDirected,
    /// A packet that a netfilter rule logged, with metadata.
    Nflog,
}

/// LINKTYPE_ numbers, <https://www.tcpdump.org/linktypes.html>.
const LINKS: [(u32, Link); 15] = [
    (0, Link::Null),
    (1, Link::Ethernet),
    (9, Link::Ppp),
    (12, Link::Raw), // DLT_RAW, as some systems write it
    (14, Link::Raw), // the same, on OpenBSD
    (101, Link::Raw),
    (50, Link::Ppp),
    (108, Link::Null),
    (113, Link::Cooked),
    (166, Link::PppDirected),
    (204, Link::PppDirected),
    (228, Link::Raw),
    (229, Link::Raw),
    (239, Link::Nflog),
    (276, Link::Cooked2),
];

/// Some other link types, for the error message.
const OTHERS: [(u32, &str); 8] = [
    (105, "IEEE 802.11"),
    (119, "IEEE 802.11 with Prism header"),
    (127, "IEEE 802.11 with radiotap header"),
    (187, "Bluetooth"),
    (189, "USB"),
    (195, "IEEE 802.15.4"),
    (220, "USB"),
    (253, "netlink"),
];

/// The packet is too short for the BPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooShort;

/// Properties of a frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framed {
    /// Bytes that the frame has in excess of the packet on the wire: the programs count them, so they must be
    /// subtracted.
    pub(super) surplus: u32,
    /// True if it left through the interface; `None` if the capture does not say.
    pub(super) outgoing: Option<bool>,
    /// Interface index on the capturing host; 0 if the capture does not say.
    pub(super) ifindex: u32,
}

/// The header with which a packet was captured.
struct Header {
    /// Its length in bytes; the IP packet follows.
    length: usize,
    /// EtherType of the packet that follows; `None` if it is cut off.
    kind: Option<u16>,
    outgoing: Option<bool>,
    ifindex: u32,
}

impl Link {
    /// The link of a LINKTYPE_ number.
    ///
    /// # Errors
    ///
    /// Packets of this type cannot be replayed; the error lists the types that can.
    pub(super) fn of(number: u32) -> Result<Link> {
        match LINKS.iter().find(|l| l.0 == number) {
            Some(link) => Ok(link.1),
            None => {
                let name = OTHERS.iter().find(|o| o.0 == number).map_or_else(String::new, |o| format!(" ({})", o.1));
                bail!(
                    "packets of link type {number}{name} cannot be replayed: Ethernet (1), raw IP (101, 228, 229), Linux cooked \
                     (113, 276), BSD loopback (0, 108), PPP (9, 50, 166, 204) and NFLOG (239) are supported{}",
                    if name.contains("802.11") {
                        "; on a wireless interface, capture without monitor mode"
                    } else {
                        ""
                    }
                )
            }
        }
    }

    /// True if each packet says whether it came or left.
    pub(super) fn has_direction(self) -> bool {
        matches!(self, Link::Cooked | Link::Cooked2 | Link::PppDirected | Link::Nflog)
    }

    /// True if a packet may have been captured at each interface that it passes.
    pub(super) fn is_cooked(self) -> bool {
        matches!(self, Link::Cooked | Link::Cooked2)
    }

    /// Makes an Ethernet frame of the packet. Its length on the wire stays that of the packet with the header that it
    /// was captured with, as in tshark's `frame.len`.
    pub(super) fn frame(self, packet: &Packet, frame: &mut Vec<u8>) -> Result<Framed, TooShort> {
        let data = &packet.data;
        frame.clear();
        let Some(header) = self.header(data) else {
            frame.extend_from_slice(data);
            return enough(frame, packet.outgoing, 0, 0);
        };
        let rest = data.get(header.length..).ok_or(TooShort)?;
        frame.extend([0; 12]);
        frame.extend(header.kind.ok_or(TooShort)?.to_be_bytes());
        frame.extend_from_slice(rest);
        let surplus = ETHERNET.saturating_sub(header.length) as u32;
        enough(frame, packet.outgoing.or(header.outgoing), header.ifindex, surplus)
    }

    /// The header that the packet was captured with; `None` for an Ethernet header.
    fn header(self, data: &[u8]) -> Option<Header> {
        let field = |at: usize| Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
        let plain = |length, kind| Header { length, kind, outgoing: None, ifindex: 0 };
        let sent = |kind: u16| kind == SENT;
        Some(match self {
            Link::Ethernet => return None,
            Link::Raw => plain(0, ip_type(data.first())),
            Link::Null => plain(4, ip_type(data.get(4))),
            Link::Cooked => Header { outgoing: field(0).map(sent), ..plain(16, field(14)) },
            Link::Cooked2 => {
                let ifindex = field(4).zip(field(6)).map_or(0, |(high, low)| u32::from(high) << 16 | u32::from(low));
                Header { outgoing: data.get(10).map(|&kind| sent(kind.into())), ifindex, ..plain(20, field(0)) }
            }
            Link::Ppp => ppp(data, 0),
            Link::PppDirected => Header { outgoing: data.first().map(|&direction| direction != 0), ..ppp(data, 1) },
            Link::Nflog => nflog(data),
        })
    }
}

/// Parses a PPP header (RFC 1661 and 1662): address and control may be omitted, and so may the upper byte of the
/// protocol, which is even. `at` is the number of bytes before it, of which one may replace the address.
fn ppp(data: &[u8], mut at: usize) -> Header {
    match data.get(at..) {
        Some([0xff, 0x03, ..]) => at += 2,
        Some([0x03, ..]) if at > 0 => at += 1,
        _ => {}
    }
    let short = data.get(at).is_some_and(|first| first & 1 != 0);
    let length = at + if short { 1 } else { 2 };
    let protocol = data.get(at..length).map(|bytes| bytes.iter().fold(0, |all, &byte| all << 8 | u16::from(byte)));
    let kind = protocol.map(|protocol| match protocol {
        0x0021 => IPV4,
        0x0057 => IPV6,
        _ => NOT_IP,
    });
    Header { length, kind, outgoing: None, ifindex: 0 }
}

// From <linux/netfilter/nfnetlink_log.h>; hooks from <linux/netfilter.h>.
const NFLOG_HEADER: usize = 4;
const NFULA_PACKET_HDR: u16 = 1;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_IFINDEX_OUTDEV: u16 = 5;
const NFULA_PAYLOAD: u16 = 9;
const HOOK_OUTPUT: u8 = 3;
const HOOK_POSTROUTING: u8 = 4;

/// Parses NFLOG attributes: a length (which includes these four bytes), a type and a value each, in the byte order of
/// the capturing host. That is taken to be little-endian, like all hosts that netmon runs on, unless that makes no
/// sense.
fn nflog(data: &[u8]) -> Header {
    let mut header = Header { length: data.len(), kind: None, outgoing: None, ifindex: 0 };
    let mut at = NFLOG_HEADER;
    while let Some(&[a, b, c, d]) = data.get(at..at + 4) {
        let [little, big] = [u16::from_le_bytes([a, b]), u16::from_be_bytes([a, b])].map(usize::from);
        let swapped = (little < 4 || little > data.len() - at) && (4..=data.len() - at).contains(&big);
        let (length, kind) =
            if swapped { (big, u16::from_be_bytes([c, d])) } else { (little, u16::from_le_bytes([c, d])) };
        if length < 4 {
            break;
        }
        let value = data.get(at + 4..data.len().min(at + length)).unwrap_or_default();
        match (kind & 0x7fff, value) {
            (NFULA_PACKET_HDR, &[_, _, hook, ..]) => {
                header.outgoing = Some(hook == HOOK_OUTPUT || hook == HOOK_POSTROUTING)
            }
            (NFULA_IFINDEX_INDEV, &[a, b, c, d]) => header.ifindex = u32::from_be_bytes([a, b, c, d]),
            (NFULA_IFINDEX_OUTDEV, &[a, b, c, d]) if header.ifindex == 0 => {
                header.ifindex = u32::from_be_bytes([a, b, c, d]);
            }
            (NFULA_PAYLOAD, value) => {
                header.length = at + 4;
                header.kind = ip_type(value.first());
                break; // it comes last
            }
            _ => {}
        }
        at += length.next_multiple_of(4);
    }
    header
}

/// EtherType by the IP version, in the upper half of the first byte; the programs reject anything else.
fn ip_type(first: Option<&u8>) -> Option<u16> {
    match first? >> 4 {
        4 => Some(IPV4),
        6 => Some(IPV6),
        _ => Some(NOT_IP),
    }
}

/// Checks the minimum length of frames that the kernel runs programs on.
fn enough(frame: &[u8], outgoing: Option<bool>, ifindex: u32, surplus: u32) -> Result<Framed, TooShort> {
    let kind = frame.get(12..14).ok_or(TooShort)?;
    let least = match u16::from_be_bytes([kind[0], kind[1]]) {
        IPV4 => ETHERNET + 20,
        IPV6 => ETHERNET + 40,
        _ => ETHERNET,
    };
    if frame.len() < least { Err(TooShort) } else { Ok(Framed { surplus, outgoing, ifindex }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(link: u32, data: &[u8]) -> Result<(Framed, Vec<u8>), TooShort> {
        let packet = Packet { data: data.to_vec(), ..Packet::default() };
        let mut frame = vec![9; 5];
        let framed = Link::of(link).unwrap().frame(&packet, &mut frame)?;
        Ok((framed, frame))
    }

    fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &kind.to_be_bytes(), rest].concat()
    }

    #[test]
    fn headers_become_ethernet() {
        let v4 = [&[0x45][..], &[1; 30]].concat();
        let v6 = [&[0x60][..], &[1; 50]].concat();
        let tells = |outgoing| Framed { surplus: 0, outgoing: Some(outgoing), ifindex: 0 };
        let at_7 = |outgoing| Framed { ifindex: 7, ..tells(outgoing) };
        let surplus = |surplus| Framed { surplus, outgoing: None, ifindex: 0 };
        for raw in [12, 14, 101] {
            assert_eq!(framed(raw, &v4), Ok((surplus(14), ethernet(0x0800, &v4))));
            assert_eq!(framed(raw, &v6), Ok((surplus(14), ethernet(0x86dd, &v6))));
        }
        let null = [&[2, 0, 0, 0][..], &v4].concat();
        assert_eq!(framed(0, &null), Ok((surplus(10), ethernet(0x0800, &v4))));
        let mut sll = [&[0, 4, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0, 0x86, 0xdd][..], &v6].concat();
        assert_eq!(framed(113, &sll), Ok((tells(true), ethernet(0x86dd, &v6))));
        sll[1] = 0;
        assert_eq!(framed(113, &sll), Ok((tells(false), ethernet(0x86dd, &v6))));
        let mut sll2 = [&[0x08, 0, 0, 0, 0, 0, 0, 7, 0, 1, 4, 6, 1, 2, 3, 4, 5, 6, 0, 0][..], &v4].concat();
        assert_eq!(framed(276, &sll2), Ok((at_7(true), ethernet(0x0800, &v4))));
        sll2[10] = 3;
        assert_eq!(framed(276, &sll2), Ok((at_7(false), ethernet(0x0800, &v4))));
        let plain = ethernet(0x0806, &[7; 28]);
        assert_eq!(framed(1, &plain), Ok((surplus(0), plain.clone())));
    }

    #[test]
    fn ppp_with_and_without_optional_parts() {
        let v4 = [&[0x45][..], &[1; 30]].concat();
        let v6 = [&[0x60][..], &[1; 50]].concat();
        let framed_as = |link, start: &[u8], ip: &[u8]| framed(link, &[start, ip].concat()).unwrap();
        let expected = |length: usize, outgoing| Framed { surplus: (14 - length) as u32, outgoing, ifindex: 0 };
        assert_eq!(framed_as(9, &[0xff, 3, 0, 0x21], &v4), (expected(4, None), ethernet(0x0800, &v4)));
        assert_eq!(framed_as(9, &[0, 0x57], &v6), (expected(2, None), ethernet(0x86dd, &v6)));
        assert_eq!(framed_as(50, &[0xff, 3, 0x21], &v4), (expected(3, None), ethernet(0x0800, &v4)));
        assert_eq!(framed_as(166, &[1, 3, 0, 0x21], &v4), (expected(4, Some(true)), ethernet(0x0800, &v4)));
        assert_eq!(framed_as(204, &[0, 0xff, 3, 0, 0x57], &v6), (expected(5, Some(false)), ethernet(0x86dd, &v6)));
        let lcp = [0xff, 3, 0xc0, 0x21, 1, 1, 0, 4];
        assert_eq!(framed(9, &lcp).unwrap().1, ethernet(0xffff, &lcp[4..]), "not IP");
        assert_eq!(framed(9, &[0xff, 3]), Err(TooShort));
    }

    #[test]
    fn nflog_has_the_packet_in_its_last_attribute() {
        let v4 = [&[0x45][..], &[1; 30]].concat();
        let attribute = |kind: u16, value: &[u8], swapped: bool| {
            let order = |n: u16| if swapped { n.to_be_bytes() } else { n.to_le_bytes() };
            let mut all = [&order(value.len() as u16 + 4)[..], &order(kind), value].concat();
            all.resize(all.len().next_multiple_of(4), 0);
            all
        };
        for swapped in [false, true] {
            let logged = |hook: u8, device: u16| {
                [
                    vec![2, 0, 0, 5],
                    attribute(1, &[8, 0, hook, 0], swapped),
                    attribute(10, b"rule 7\0", swapped),
                    attribute(device, &[0, 0, 0, 3], swapped),
                    attribute(9, &v4, swapped),
                ]
                .concat()
            };
            // Header and attributes before the packet: 4 + 8 + 12 + 8, and the 4 bytes of its own.
            let expected = |outgoing| Framed { surplus: 0, outgoing: Some(outgoing), ifindex: 3 };
            let mut padded = v4.clone();
            padded.resize(32, 0);
            assert_eq!(framed(239, &logged(1, 4)), Ok((expected(false), ethernet(0x0800, &padded))));
            assert_eq!(framed(239, &logged(4, 5)), Ok((expected(true), ethernet(0x0800, &padded))));
        }
        assert_eq!(framed(239, &[2, 0, 0, 5]), Err(TooShort));
        assert_eq!(framed(239, &[2, 0, 0, 5, 0, 0, 9, 0]), Err(TooShort));
    }

    #[test]
    fn frames_that_the_kernel_would_refuse_are_too_short() {
        assert_eq!(framed(1, &[0; 13]), Err(TooShort));
        assert_eq!(framed(1, &ethernet(0x0800, &[0x45; 19])), Err(TooShort));
        assert_eq!(framed(101, &[]), Err(TooShort));
        assert_eq!(framed(101, &[0x60; 39]), Err(TooShort));
        assert_eq!(framed(113, &[0; 15]), Err(TooShort));
        assert_eq!(framed(276, &[0x08, 0]), Err(TooShort));
        assert!(framed(1, &ethernet(0x0800, &[0x45; 20])).is_ok());
    }

    #[test]
    fn unknown_link_types_are_named() {
        let error = Link::of(127).unwrap_err().to_string();
        assert!(error.contains("link type 127 (IEEE 802.11 with radiotap header)") && error.contains("Ethernet (1)"));
        assert!(error.contains("without monitor mode"), "{error}");
        assert!(Link::of(147).unwrap_err().to_string().contains("link type 147 cannot"));
    }
}
