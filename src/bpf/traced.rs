//! A traced packet, decoded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::app::App;
use super::record::Hook;
use super::skel::types::{nm_fate, nm_number, nm_traced, nm_view};
use super::trace::PacketWord;

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Added to the cached entry of its flow.
    Cached,
    /// The first packet of a new entry.
    New,
    /// The same, in place of another flow's entry.
    Displaced,
    /// The same, but the ring was full, and what the other entry held was lost.
    Ousted,
    /// There was no room in the cache, and the ring was full.
    Lost,
    /// Its flow is outside the sample.
    LeftOut,
    /// The cache was in use: the packet got a record of its own.
    Past,
    /// The same, but the ring was full.
    PastLost,
    /// It is not IP.
    NotIp,
    /// Its headers are inconsistent or cut off.
    Malformed,
}

impl Fate {
    /// All fates, indexed by their numbers.
    pub const ALL: [Fate; 10] = [
        Fate::Cached,
        Fate::New,
        Fate::Displaced,
        Fate::Ousted,
        Fate::Lost,
        Fate::LeftOut,
        Fate::Past,
        Fate::PastLost,
        Fate::NotIp,
        Fate::Malformed,
    ];

    /// The name in filters and output.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Cached => "cached",
            Fate::New => "new",
            Fate::Displaced => "displaced",
            Fate::Ousted => "ousted",
            Fate::Lost => "lost",
            Fate::LeftOut => "sampled_out",
            Fate::Past => "past_cache",
            Fate::PastLost => "past_cache_lost",
            Fate::NotIp => "not_ip",
            Fate::Malformed => "malformed",
        }
    }

    fn decode(number: u32) -> Option<Fate> {
        Fate::ALL.get(number as usize).copied()
    }
}

// `Fate::ALL` is in the order of enum nm_fate.
const _: () = {
    let numbers = [
        nm_fate::NM_FATE_CACHED,
        nm_fate::NM_FATE_NEW,
        nm_fate::NM_FATE_DISPLACED,
        nm_fate::NM_FATE_OUSTED,
        nm_fate::NM_FATE_LOST,
        nm_fate::NM_FATE_LEFT_OUT,
        nm_fate::NM_FATE_PAST,
        nm_fate::NM_FATE_PAST_LOST,
        nm_fate::NM_FATE_NOT_IP,
        nm_fate::NM_FATE_MALFORMED,
    ];
    let mut number = 0;
    while number < Fate::ALL.len() {
        assert!(numbers[number].0 as usize == number);
        number += 1;
    }
};

/// A packet as the program parsed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketView {
    /// Sender and receiver, if it is IP and well formed.
    pub ends: Option<[IpAddr; 2]>,
    /// IP protocol number, likewise.
    pub protocol: Option<u8>,
    /// Ports of sender and receiver; 0 in protocols without ports.
    pub ports: [u16; 2],
    /// The flags byte of TCP; 0 for other protocols.
    pub tcp_flags: u8,
    /// ICMP type and code; 0 for other protocols.
    pub icmp: [u8; 2],
    /// Outer VLAN id, 0: none.
    pub vlan: u16,
    /// What happened to it.
    pub fate: Fate,
}

impl PacketView {
    fn decode(view: &nm_view) -> Option<PacketView> {
        let word = |word: PacketWord| view.word[word.number() as usize];
        let address = |quarter: fn(u8) -> PacketWord| match word(PacketWord::Family) {
            4 => Some(IpAddr::V4(Ipv4Addr::from(word(quarter(0))))),
            6 => {
                let quarters = [0, 1, 2, 3].map(|i| u128::from(word(quarter(i))));
                Some(IpAddr::V6(Ipv6Addr::from(quarters.into_iter().fold(0, |sum, part| sum << 32 | part))))
            }
            _ => None,
        };
        let ends = address(PacketWord::Source).zip(address(PacketWord::Destination));
        Some(PacketView {
            ends: ends.map(|(source, destination)| [source, destination]),
            protocol: Some(word(PacketWord::Protocol)).filter(|p| *p != nm_number::NM_NO_PROTOCOL.0).map(|p| p as u8),
            ports: [word(PacketWord::SourcePort) as u16, word(PacketWord::DestinationPort) as u16],
            tcp_flags: word(PacketWord::TcpFlags) as u8,
            icmp: [word(PacketWord::IcmpType) as u8, word(PacketWord::IcmpCode) as u8],
            vlan: word(PacketWord::Vlan) as u16,
            fate: Fate::decode(word(PacketWord::Fate))?,
        })
    }
}

/// A traced packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedPacket {
    /// When it was seen, in nanoseconds of CLOCK_MONOTONIC, or of the capture that is replayed.
    pub ns: u64,
    /// Index of the interface it was seen at.
    pub ifindex: u32,
    /// The hook that saw it.
    pub hook: Hook,
    /// Number of packets it was accounted as: a GSO packet counts as its segments.
    pub packets: u64,
    /// Bytes it was accounted as, including the headers of each segment.
    pub bytes: u64,
    /// Length in bytes of the packet as the kernel passes it.
    pub length: u32,
    /// Sequence number of TCP or of an ICMP echo message.
    pub seq: u32,
    /// Acknowledgement number of TCP.
    pub ack: u32,
    /// Window of TCP, unscaled.
    pub window: u16,
    /// EtherType and TCI of a VLAN tag that is not in `header`.
    pub vlan_tag: Option<[u16; 2]>,
    /// Whether the packet starts with an Ethernet header; otherwise with the IP header.
    pub ethernet: bool,
    /// Its headers, without payload.
    pub header: Vec<u8>,
    /// The packet as the program parsed it.
    pub view: PacketView,
    /// If it is a tunnel packet: the tunnel, and the packet inside.
    pub inner: Option<(Option<App>, PacketView)>,
}

impl TracedPacket {
    /// Decodes a traced packet; `None` if it contains an unknown value.
    pub(super) fn decode(traced: &nm_traced) -> Option<TracedPacket> {
        let [view, inner] = &traced.view;
        let word = |word: PacketWord| view.word[word.number() as usize];
        Some(TracedPacket {
            ns: traced.ns,
            ifindex: word(PacketWord::Interface),
            hook: Hook::decode(u8::try_from(word(PacketWord::Hook)).ok()?)?,
            packets: traced.packets.into(),
            bytes: traced.bytes,
            length: traced.length,
            seq: traced.seq,
            ack: traced.ack,
            window: traced.window,
            vlan_tag: (traced.vlan_proto != 0).then(|| [u16::from_be(traced.vlan_proto), traced.vlan_tci]),
            ethernet: traced.ethernet != 0,
            header: traced.header.get(..usize::from(traced.captured))?.to_vec(),
            view: PacketView::decode(view)?,
            inner: match traced.views {
                2 => Some((App::decode(traced.tunnel), PacketView::decode(inner)?)),
                _ => None,
            },
        })
    }
}

// The layout that bpf/trace.h promises.
const _: () = assert!(size_of::<nm_view>() == 80);
