//! The interfaces of this network namespace, by netlink.

use std::collections::HashMap;

use anyhow::{Context, Result};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoPortKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage,
};

use super::facing;
use super::netlink::{dump, get};
use super::route::Route;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name. The kernel allows any bytes; those that are not printable are escaped.
    pub name: String,
    /// `physical`, `loopback`, or the kernel's name of a virtual kind, such as `veth`, `bridge`, `vxlan`.
    pub kind: String,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// What its packets start with; `None`: neither Ethernet nor IP, so it cannot be watched.
    pub framing: Option<Framing>,
    /// Index of the bridge, bond, team or VRF it is a port of.
    pub master: Option<u32>,
    /// Index of an interface that every packet of this one passes too and that shows more: the one below a VLAN device, the bond
    /// of a port.
    pub repeats: Option<u32>,
    /// It is the host's end of a pair whose other end a pod or container has, or a bridge of such ends: what enters the host here
    /// has left a workload.
    pub workload: bool,
    /// Index of the interface it was created on, or of the other end of a pair, if that is in this namespace.
    pub lower: Option<u32>,
    /// The id of a VLAN device.
    pub vlan: Option<u16>,
    /// It is a bridge that may hold packets back: it filters VLANs, or runs the spanning tree protocol.
    pub holds_back: bool,
    /// It has an address with more than link scope.
    pub addressed: bool,
    /// It is the end of a pair whose other end is in another namespace.
    pub(super) peer_elsewhere: bool,
}

/// Kinds of interfaces that have no other end on the host.
const UNLINKED: [&str; 5] = ["macvlan", "macvtap", "ipvlan", "ipvtap", "physical"];

impl Link {
    /// Whether it has no other end on the host: a pod's interface of this kind is visible only in the pod's namespace.
    pub fn is_unlinked(&self) -> bool {
        UNLINKED.contains(&self.kind.as_str())
    }
}

/// What packets of an interface start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: tun, wireguard, ipip, sit, gre.
    Ip,
}

impl Framing {
    fn of(layer: LinkLayerType) -> Option<Framing> {
        match layer {
            LinkLayerType::Ether | LinkLayerType::Loopback => Some(Framing::Ethernet),
            LinkLayerType::None
            | LinkLayerType::Ppp
            | LinkLayerType::Rawip
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre => Some(Framing::Ip),
            _ => None,
        }
    }
}

impl Link {
    /// Whether the interface counts packets as the kernel passes them: one that is yet to be segmented, or was merged from segments,
    /// counts as one. A NIC counts packets on the wire.
    pub fn counts_whole(&self) -> bool {
        self.kind != PHYSICAL
    }

    /// Whether it is an end of a pair whose other end is in this namespace.
    pub fn has_peer_here(&self) -> bool {
        matches!(self.kind.as_str(), "veth" | "netkit") && self.lower.is_some()
    }

    /// Whether it is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.kind == "bridge"
    }

    /// An Ethernet interface for tests.
    #[cfg(test)]
    pub(crate) fn sample(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            loopback: false,
            framing: Some(Framing::Ethernet),
            master: None,
            repeats: None,
            workload: false,
            lower: None,
            vlan: None,
            holds_back: false,
            addressed: false,
            peer_elsewhere: false,
        }
    }

    pub(super) fn of(message: &LinkMessage) -> Option<Link> {
        let header = &message.header;
        let loopback = header.flags.contains(LinkFlags::Loopback);
        let mut link = Link {
            index: header.index,
            name: String::new(),
            kind: if loopback { "loopback" } else { PHYSICAL }.to_owned(),
            loopback,
            framing: Framing::of(header.link_layer_type),
            master: None,
            repeats: None,
            workload: false,
            lower: None,
            vlan: None,
            holds_back: false,
            addressed: false,
            peer_elsewhere: false,
        };
        let (mut ends, mut elsewhere, mut vlan, mut bonded, mut lower) = (false, false, false, false, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                // Only present if the peer, or the lower interface, is in another namespace.
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::Link(index) => lower = Some(*index),
                LinkAttribute::Controller(index) => link.master = (*index != 0).then_some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => {
                                ends = matches!(kind, InfoKind::Veth | InfoKind::Netkit);
                                vlan = matches!(kind, InfoKind::Vlan);
                                link.kind = kind.to_string();
                            }
                            LinkInfo::Data(InfoData::Vlan(data)) => {
                                link.vlan = data.iter().find_map(|item| match item {
                                    InfoVlan::Id(id) => Some(*id),
                                    _ => None,
                                });
                            }
                            LinkInfo::Data(InfoData::Bridge(data)) => {
                                link.holds_back = data.iter().any(|item| match item {
                                    InfoBridge::StpState(state) => *state != BridgeStpState::Disabled,
                                    InfoBridge::VlanFiltering(filters) => *filters,
                                    _ => false,
                                });
                            }
                            LinkInfo::PortKind(kind) => {
                                bonded = matches!(kind, InfoPortKind::Bond | InfoPortKind::Team);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link.peer_elsewhere = ends && elsewhere;
        link.lower = lower.filter(|_| !elsewhere);
        if vlan && !elsewhere {
            link.repeats = lower;
        } else if bonded {
            link.repeats = link.master;
        }
        (!link.name.is_empty()).then_some(link)
    }
}

const PHYSICAL: &str = "physical";

/// All interfaces of this namespace.
///
/// # Errors
///
/// The kernel refuses a list, or it changed too often while it was read.
pub fn list_links() -> Result<Vec<Link>> {
    let mut links = read_links()?.into_iter().map(|link| (link.index, link)).collect();
    facing::judge_all(&mut links, &mut None)?;
    Ok(links.into_values().collect())
}

/// All interfaces, without deciding which face a workload.
pub(super) fn read_links() -> Result<Vec<Link>> {
    each_link(Link::of)
}

/// The interfaces' own counters, by index: packets received and sent.
///
/// # Errors
///
/// As for [`list_links`].
pub fn interface_counters() -> Result<HashMap<u32, [u64; 2]>> {
    let counters = each_link(|message| Some((message.header.index, counted(message)?)))?;
    Ok(counters.into_iter().collect())
}

/// As [`interface_counters`], for one interface; `None` if it does not exist.
pub fn counters_of(index: u32) -> Option<[u64; 2]> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    let mut counters = None;
    let asked = get(Route(RouteNetlinkMessage::GetLink(request)), |message| {
        if let RouteNetlinkMessage::NewLink(message) = message.0 {
            counters = counted(&message);
        }
    });
    asked.ok().and(counters)
}

fn counted(message: &LinkMessage) -> Option<[u64; 2]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some([stats.rx_packets, stats.tx_packets]),
        _ => None,
    })
}

fn each_link<T>(mut take: impl FnMut(&LinkMessage) -> Option<T>) -> Result<Vec<T>> {
    dump(Route(RouteNetlinkMessage::GetLink(LinkMessage::default())), |message| match message.0 {
        RouteNetlinkMessage::NewLink(message) => take(&message),
        _ => None,
    })
    .context("list the interfaces")
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkHeader;

    use super::*;

    #[test]
    fn loopback_is_listed() {
        let links = list_links().unwrap();
        let lo = links.iter().find(|l| l.loopback).expect("every namespace has a loopback device");
        assert_eq!((lo.name.as_str(), lo.framing), ("lo", Some(Framing::Ethernet)));
    }

    fn link(attributes: Vec<LinkAttribute>) -> Link {
        let mut message = LinkMessage::default();
        message.header = LinkHeader { index: 7, link_layer_type: LinkLayerType::Ether, ..LinkHeader::default() };
        message.attributes = vec![LinkAttribute::IfName("x0".to_owned())];
        message.attributes.extend(attributes);
        Link::of(&message).unwrap()
    }

    fn info(kind: InfoKind) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])
    }

    #[test]
    fn kinds_are_the_kernels_names() {
        assert_eq!(link(vec![]).kind, "physical");
        assert_eq!(link(vec![info(InfoKind::Veth)]).kind, "veth");
        assert_eq!(link(vec![info(InfoKind::Other("future".to_owned()))]).kind, "future");
    }

    #[test]
    fn bridges_that_hold_packets_back_are_known() {
        let bridge =
            |data| link(vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), data])]).holds_back;
        let data = |stp, filters| {
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::StpState(stp), InfoBridge::VlanFiltering(filters)]))
        };
        assert!(!bridge(data(BridgeStpState::Disabled, false)));
        assert!(bridge(data(BridgeStpState::KernelStp, false)) && bridge(data(BridgeStpState::Disabled, true)));
    }

    #[test]
    fn vlan_devices_and_bonded_ports_repeat_another() {
        let vlan = LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(5)])),
        ]);
        assert_eq!(link(vec![LinkAttribute::Link(3), vlan.clone()]).repeats, Some(3));
        let moved = vec![LinkAttribute::Link(3), LinkAttribute::LinkNetNsId(0), vlan];
        assert_eq!(link(moved).repeats, None, "the lower one is not here");
        let port = |kind| vec![LinkAttribute::Controller(4), LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(kind)])];
        assert_eq!(link(port(InfoPortKind::Bond)).repeats, Some(4));
        assert_eq!(link(port(InfoPortKind::Team)).repeats, Some(4));
        assert_eq!(link(port(InfoPortKind::Bridge)).repeats, None, "ports talk to each other");
        assert_eq!(link(vec![LinkAttribute::Link(3), info(InfoKind::MacVlan)]).repeats, None, "siblings talk");
    }
}
