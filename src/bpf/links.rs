//! The interfaces of this network namespace, by netlink.

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

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
    let mut socket = Socket::new(NETLINK_ROUTE).context("open a netlink socket")?;
    socket.bind_auto().context("bind a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("connect a netlink socket")?;
    let mut request = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::from(RouteNetlinkMessage::GetLink(LinkMessage::default())),
    );
    request.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).context("ask for the interfaces")?;

    let mut links = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().context("read the interfaces")?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("read the interfaces")?;
            // Messages are aligned to four bytes (NLMSG_ALIGN).
            let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(links),
                NetlinkPayload::Error(error) => bail!("list the interfaces: {}", error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => links.extend(link_of(link)),
                _ => {}
            }
            if length == 0 {
                break;
            }
            rest = &rest[length..];
        }
    }
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
