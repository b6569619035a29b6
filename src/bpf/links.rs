//! The interfaces of this network namespace, by netlink.

use anyhow::{Context, Result};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use super::facing::{self, Pair};
use super::netlink::dump;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// The loopback device.
    pub loopback: bool,
    /// What its packets start with; `None`: neither Ethernet nor IP, so there is nothing to watch.
    pub framing: Option<Framing>,
    /// It is the host's end of a pair, and a pod or container has the other: what enters the host here has left a workload.
    pub workload: bool,
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

/// Lists all interfaces.
pub fn list_links() -> Result<Vec<Link>> {
    let (mut links, mut pairs) = (Vec::new(), Vec::new());
    dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
        if let RouteNetlinkMessage::NewLink(message) = message {
            pairs.push((message.header.index, Pair::of(&message)));
            links.extend(link_of(message));
        }
    })
    .context("list the interfaces")?;
    let workloads = facing::workloads(&pairs)?;
    for link in &mut links {
        link.workload = workloads.contains(&link.index);
    }
    Ok(links)
}

fn link_of(message: LinkMessage) -> Option<Link> {
    let name = message.attributes.into_iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })?;
    let flags = message.header.flags;
    Some(Link {
        index: message.header.index,
        name,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        framing: Framing::of(message.header.link_layer_type),
        workload: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed() {
        let links = list_links().unwrap();
        let lo = links.iter().find(|l| l.loopback).expect("every namespace has a loopback device");
        assert_eq!((lo.name.as_str(), lo.framing), ("lo", Some(Framing::Ethernet)));
    }
}
