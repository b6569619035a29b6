//! A packet that was traced, decoded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::app::App;
use super::record::Hook;
use super::skel::types::{nm_fate, nm_number, nm_traced, nm_view};
use super::trace::PacketWord;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Added to the cached entry of its flow.
    Cached,
    /// The first of a new entry.
    New,
    /// The same, in place of another flow's entry.
    Displaced,
    /// The same, and what the other held was lost: its ring was full.
    Ousted,
    /// There was no room, and its ring was full.
    Lost,
    /// Its flow is not in the sample.
    LeftOut,
    /// The cache was in use: a record of its own.
    Past,
    /// The same, and its ring was full.
    PastLost,
    /// It is not IP.
    NotIp,
    /// Its headers contradict themselves, or are cut off.
    Malformed,
}

impl Fate {
    /// All, each at the place of its number.
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

    /// As in filters and output.
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

// `Fate::ALL` has them in the order of enum nm_fate.
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

/// A packet as the program took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketView {
    /// Sender and receiver, if it is IP and well formed.
    pub ends: Option<[IpAddr; 2]>,
    /// Its protocol, likewise.
    pub protocol: Option<u8>,
    /// Sender's and receiver's, 0 in protocols without.
    pub ports: [u16; 2],
    /// 0 unless TCP.
    pub tcp_flags: u8,
    /// Type and code.
    pub icmp: [u8; 2],
    /// Outer VLAN id, 0: none.
    pub vlan: u16,
    /// What became of it.
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

/// A packet that was traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedPacket {
    /// When it was seen, CLOCK_MONOTONIC.
    pub ns: u64,
    /// Where.
    pub ifindex: u32,
    /// On which side.
    pub hook: Hook,
    /// As it was accounted: a GSO packet counts as its segments.
    pub packets: u64,
    /// As they were accounted, headers of each segment included.
    pub bytes: u64,
    /// Bytes of the packet as the kernel handed it around.
    pub length: u32,
    /// TCP; ICMP echo: of the message.
    pub seq: u32,
    /// TCP.
    pub ack: u32,
    /// TCP, unscaled.
    pub window: u16,
    /// EtherType and content of a VLAN tag that is not in `header`.
    pub vlan_tag: Option<[u16; 2]>,
    /// It starts with an Ethernet header, else with that of IP.
    pub ethernet: bool,
    /// Its headers, never payload.
    pub header: Vec<u8>,
    /// The packet.
    pub view: PacketView,
    /// The one inside, if it is a tunnel's, and the tunnel.
    pub inner: Option<(Option<App>, PacketView)>,
}

impl TracedPacket {
    /// `None` if something in it is unknown.
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
