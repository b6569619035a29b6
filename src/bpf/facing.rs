//! Which interfaces face a workload: host ends of pairs whose other end is a pod's or a container's interface. What enters the
//! host through one has left the workload, so the hooks mean the opposite of what they mean on an uplink.
//!
//! The rule: a veth or netkit device whose peer is in another network namespace faces a workload if a bridge has it, or if it
//! neither is the way out nor on a subnet: no default route leads over it, and its addresses, link-local ones aside, are single
//! ones (/32, /128). What that makes of
//!
//! | host end | made by | bridge | addresses | routes over it | faces a workload |
//! |---|---|---|---|---|---|
//! | `veth*` | Docker, flannel, the bridge plug-in | yes | none | none | yes |
//! | `cali*` | Calico | no | none | the pod's /32 | yes |
//! | `lxc*` | Cilium, veth or netkit | no | none | none or the pod's /32 | yes |
//! | `eni*` | AWS VPC CNI | no | none | the pod's /32 | yes |
//! | `gke*`, `veth*` | ptp plug-in (GKE, kindnet) | no | the gateway's /32 | the pod's /32 | yes |
//! | `eth0` | the pod's own end, a kind node, a test's namespace | no | its own | default, or its subnet | no |
//!
//! It cannot tell the two sides of a bridge in a namespace that itself hangs on a veth: an uplink that a bridge has is taken for
//! a workload's. Tap devices of virtual machines count as uplinks: nothing tells them from those of a VPN.

use std::collections::HashSet;

use anyhow::{Context, Result};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::netlink::dump;

/// What a link's own message tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pair {
    /// The end of a pair whose other end is in another namespace.
    peer_elsewhere: bool,
    /// Index of the bridge, bond or VRF that has it.
    master: Option<u32>,
    /// It is a bridge, of the kernel or of Open vSwitch.
    bridge: bool,
}

impl Pair {
    pub(super) fn of(message: &LinkMessage) -> Pair {
        let mut pair = Pair::default();
        let (mut ends, mut elsewhere) = (false, false);
        for attribute in &message.attributes {
            match attribute {
                // Only there if the peer's namespace is another one.
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::Controller(index) => pair.master = (*index != 0).then_some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(InfoKind::Veth | InfoKind::Netkit) => ends = true,
                            LinkInfo::Kind(InfoKind::Bridge) => pair.bridge = true,
                            LinkInfo::Kind(InfoKind::Other(kind)) => pair.bridge |= kind == "openvswitch",
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        pair.peer_elsewhere = ends && elsewhere;
        pair
    }
}

/// The indexes of those of `links` that face a workload.
pub(super) fn workloads(links: &[(u32, Pair)]) -> Result<HashSet<u32>> {
    let pairs = || links.iter().filter(|(_, pair)| pair.peer_elsewhere);
    // A node may have very many routes: they are read only if they matter.
    if pairs().next().is_none() {
        return Ok(HashSet::new());
    }
    let bridges: HashSet<u32> = links.iter().filter(|(_, pair)| pair.bridge).map(|(index, _)| *index).collect();
    let outward = outward()?;
    let faces = |(index, pair): &(u32, Pair)| {
        let bridged = pair.master.is_some_and(|master| bridges.contains(&master));
        bridged || !outward.contains(index)
    };
    Ok(pairs().filter(|link| faces(link)).map(|(index, _)| *index).collect())
}

/// Interfaces with a default route or on a subnet.
fn outward() -> Result<HashSet<u32>> {
    let mut found = HashSet::new();
    dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| {
        if let RouteNetlinkMessage::NewAddress(address) = message
            && is_on_subnet(&address)
        {
            found.insert(address.header.index);
        }
    })
    .context("list the addresses")?;
    dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()), |message| {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            found.extend(default_over(&route));
        }
    })
    .context("list the routes")?;
    Ok(found)
}

/// Every interface has an address of link scope: those tell nothing.
fn is_on_subnet(address: &AddressMessage) -> bool {
    let single = address.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Address(ip) => address.header.prefix_len >= if ip.is_ipv4() { 32 } else { 128 },
        _ => false,
    });
    !single && address.header.scope != AddressScope::Link
}

/// The interfaces that a default route leads over; none for other routes.
fn default_over(route: &RouteMessage) -> Vec<u32> {
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let hops = route.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    hops.collect()
}
