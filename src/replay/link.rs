//! From what a capture has of a packet to a frame that the programs take: they know Ethernet only.

use anyhow::{Result, bail};

use super::capture::Packet;

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// "sent by us", packet type of the cooked formats.
const SENT: u16 = 4;

/// What the packets of an interface start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Ethernet,
    /// The IP header.
    Raw,
    /// The address family, as the capturing system numbers it.
    Null,
    /// Linux "cooked", what the pseudo-interface "any" gives, version 1.
    Cooked,
    /// The same, version 2.
    Cooked2,
}

/// LINKTYPE_ numbers, <https://www.tcpdump.org/linktypes.html>.
const LINKS: [(u32, Link); 10] = [
    (0, Link::Null),
    (1, Link::Ethernet),
    (12, Link::Raw), // DLT_RAW, as some systems write it
    (14, Link::Raw), // the same, on OpenBSD
    (101, Link::Raw),
    (108, Link::Null),
    (113, Link::Cooked),
    (228, Link::Raw),
    (229, Link::Raw),
    (276, Link::Cooked2),
];

/// Some of the others, for the message.
const OTHERS: [(u32, &str); 10] = [
    (9, "PPP"),
    (105, "IEEE 802.11"),
    (119, "IEEE 802.11 with Prism header"),
    (127, "IEEE 802.11 with radiotap header"),
    (187, "Bluetooth"),
    (189, "USB"),
    (195, "IEEE 802.15.4"),
    (220, "USB"),
    (239, "NFLOG"),
    (253, "netlink"),
];

/// Why a packet cannot be given to the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooShort;

/// What a frame needs to know besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framed {
    /// Bytes that the frame has more than the packet had on the wire: the programs count them, and they must go again.
    pub(super) surplus: u32,
    /// It left through the interface; `None`: the capture does not tell.
    pub(super) outgoing: Option<bool>,
}

impl Link {
    /// Of a LINKTYPE_ number.
    pub(super) fn of(number: u32) -> Result<Link> {
        match LINKS.iter().find(|l| l.0 == number) {
            Some(link) => Ok(link.1),
            None => {
                let name = OTHERS.iter().find(|o| o.0 == number).map_or_else(String::new, |o| format!(" ({})", o.1));
                bail!(
                    "packets of link type {number}{name} cannot be replayed: Ethernet (1), raw IP (101, 228, 229), Linux cooked \
                     (113, 276) and BSD loopback (0, 108) can"
                )
            }
        }
    }

    /// Each packet tells whether it came or left.
    pub(super) fn tells_direction(self) -> bool {
        matches!(self, Link::Cooked | Link::Cooked2)
    }

    /// Makes an Ethernet frame of the packet. Its bytes on the wire stay those of the packet, with the header that it was
    /// captured with: what `frame.len` is to tshark.
    pub(super) fn frame(self, packet: &Packet, frame: &mut Vec<u8>) -> Result<Framed, TooShort> {
        let data = &packet.data;
        let field = |at: usize| Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
        let header = match self {
            Link::Ethernet => None,
            Link::Raw => Some((0, ip_type(data.first()), None)),
            Link::Null => Some((4, ip_type(data.get(4)), None)),
            Link::Cooked => Some((16, field(14), field(0))),
            Link::Cooked2 => Some((20, field(0), data.get(10).map(|&kind| kind.into()))),
        };
        frame.clear();
        let Some((length, kind, sent)) = header else {
            frame.extend_from_slice(data);
            return enough(frame, packet.outgoing, 0);
        };
        let rest = data.get(length..).ok_or(TooShort)?;
        frame.extend([0; 12]);
        frame.extend(kind.ok_or(TooShort)?.to_be_bytes());
        frame.extend_from_slice(rest);
        enough(frame, packet.outgoing.or(sent.map(|kind| kind == SENT)), ETHERNET.saturating_sub(length) as u32)
    }
}

/// The version is in the upper half of the first byte; what is neither is left to the programs to refuse.
fn ip_type(first: Option<&u8>) -> Option<u16> {
    match first? >> 4 {
        4 => Some(IPV4),
        6 => Some(IPV6),
        _ => Some(0xffff),
    }
}

/// The kernel runs programs on nothing shorter.
fn enough(frame: &[u8], outgoing: Option<bool>, surplus: u32) -> Result<Framed, TooShort> {
    let kind = frame.get(12..14).ok_or(TooShort)?;
    let least = match u16::from_be_bytes([kind[0], kind[1]]) {
        IPV4 => ETHERNET + 20,
        IPV6 => ETHERNET + 40,
        _ => ETHERNET,
    };
    if frame.len() < least { Err(TooShort) } else { Ok(Framed { surplus, outgoing }) }
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
        let tells = |outgoing| Framed { surplus: 0, outgoing: Some(outgoing) };
        let surplus = |surplus| Framed { surplus, outgoing: None };
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
        assert_eq!(framed(276, &sll2), Ok((tells(true), ethernet(0x0800, &v4))));
        sll2[10] = 3;
        assert_eq!(framed(276, &sll2), Ok((tells(false), ethernet(0x0800, &v4))));
        let plain = ethernet(0x0806, &[7; 28]);
        assert_eq!(framed(1, &plain), Ok((surplus(0), plain.clone())));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_told() {
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
        assert!(Link::of(147).unwrap_err().to_string().contains("link type 147 cannot"));
    }
}
