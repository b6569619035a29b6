//! Decides which interfaces face a workload: host ends of pairs whose other end is the interface of a pod or container. What enters
//! the host through one has left the workload, so the hooks mean the opposite of what they mean on an uplink.
//!
//! In the rules below, a pair is a veth or netkit device whose peer is in another network namespace, and a way out is an
//! interface with a default route.
//!
//! - A pair that is a port of a bridge faces a workload, unless the bridge is a way out and all its ports are pairs: then one of them
//!   leads out, and nothing shows which.
//! - Any other pair faces a workload if it is not a way out and not on a subnet: its addresses, apart from link-local ones, are single
//!   ones (/32, /128).
//! - A bridge that is not a way out faces workloads if all its ports do: what enters the host there came from one of them.
//!
//! The result for common interfaces:
//!
//! | interface | made by | bridge | addresses | routes over it | faces a workload |
//! |---|---|---|---|---|---|
//! | `veth*` | Docker, flannel, the bridge plug-in | yes | none | none | yes |
//! | `cali*` | Calico | no | none | the pod's /32 | yes |
//! | `lxc*` | Cilium, veth or netkit | no | none | none or the pod's /32 | yes |
//! | `eni*` | AWS VPC CNI | no | none | the pod's /32 | yes |
//! | `gke*`, `veth*` | ptp plug-in (GKE, kindnet) | no | the gateway's /32 | the pod's /32 | yes |
//! | `docker0`, `cni0` | Docker, flannel | | the pods' subnet | its subnet | yes |
//! | `eth0` | the pod's own end, a kind node, a test's namespace | no | its own | default, or its subnet | no |
//! | `br0` | a host whose uplink is a port | | its own | default | no |
//!
//! Tap devices of virtual machines count as uplinks: nothing distinguishes them from those of a VPN.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::links::Link;
use super::netlink::dump;
use super::route::Route;

/// Decides for all interfaces which face a workload. Reads `places` if they are needed and not known.
pub(super) fn judge_all(links: &mut BTreeMap<u32, Link>, places: &mut Option<InterfaceRoutes>) -> Result<()> {
    // A node may have very many routes, so they are read only if they matter.
    if places.is_none() && links.values().any(|link| link.peer_elsewhere || link.is_bridge()) {
        *places = Some(InterfaceRoutes::read()?);
    }
    judge(links, places.as_ref().unwrap_or(&InterfaceRoutes::default()));
    Ok(())
}

fn judge(links: &mut BTreeMap<u32, Link>, places: &InterfaceRoutes) {
    let bridges = bridges(links);
    let faces = |link: &Link| match link.master.and_then(|master| bridges.get(&master)) {
        _ if !link.peer_elsewhere => false,
        Some(ports) => !places.ways_out.contains(&ports.bridge) || ports.others,
        None => !places.ways_out.contains(&link.index) && !places.on_subnets.contains(&link.index),
    };
    let fronts = |bridge: u32| {
        let ports = &bridges[&bridge];
        !places.ways_out.contains(&bridge) && !ports.others
    };
    for link in links.values_mut() {
        link.workload = if link.is_bridge() { fronts(link.index) } else { faces(link) };
        link.addressed = places.addressed.contains(&link.index);
    }
}

/// The ports of a bridge.
struct Ports {
    bridge: u32,
    /// Some ports are not ends of pairs.
    others: bool,
}

fn bridges(links: &BTreeMap<u32, Link>) -> HashMap<u32, Ports> {
    let found = links.values().filter(|link| link.is_bridge());
    let mut bridges: HashMap<u32, Ports> =
        found.map(|link| (link.index, Ports { bridge: link.index, others: false })).collect();
    for link in links.values() {
        if let Some(ports) = link.master.and_then(|master| bridges.get_mut(&master)) {
            ports.others |= !link.peer_elsewhere;
        }
    }
    bridges
}

/// Addresses and default routes of the interfaces, which show where they lead.
#[derive(Debug, Default)]
pub(super) struct InterfaceRoutes {
    /// Interfaces with a default route.
    ways_out: HashSet<u32>,
    on_subnets: HashSet<u32>,
    addressed: HashSet<u32>,
    /// All addresses of this host.
    pub(super) own: HashSet<IpAddr>,
}

impl InterfaceRoutes {
    fn read() -> Result<InterfaceRoutes> {
        let mut places = InterfaceRoutes::default();
        let addresses =
            dump(Route(RouteNetlinkMessage::GetAddress(AddressMessage::default())), |message| match message.0 {
                RouteNetlinkMessage::NewAddress(address) => Some(address),
                _ => None,
            });
        addresses.context("list the addresses")?.iter().for_each(|address| places.take(address));
        let ways_out = dump(Route(RouteNetlinkMessage::GetRoute(RouteMessage::default())), |message| match message.0 {
            RouteNetlinkMessage::NewRoute(route) => Some(default_over(&route)).filter(|hops| !hops.is_empty()),
            _ => None,
        });
        places.ways_out = ways_out.context("list the routes")?.into_iter().flatten().collect();
        Ok(places)
    }
}

impl InterfaceRoutes {
    fn take(&mut self, address: &AddressMessage) {
        if is_on_subnet(address) {
            self.on_subnets.insert(address.header.index);
        }
        if address.header.scope != AddressScope::Link {
            self.addressed.insert(address.header.index);
        }
        self.own.extend(address.attributes.iter().filter_map(|attribute| match attribute {
            // On a point-to-point link, `Address` is the other end.
            AddressAttribute::Local(ip) => Some(*ip),
            AddressAttribute::Address(ip) if ip.is_ipv6() => Some(*ip),
            _ => None,
        }));
    }
}

/// True if the message invalidates what is known of places.
pub(super) fn concerns_places(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            address.header.scope != AddressScope::Link
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => !default_over(route).is_empty(),
        _ => false,
    }
}

/// True unless the address is a single one or of link scope; every interface has one of link scope, so that means nothing.
fn is_on_subnet(address: &AddressMessage) -> bool {
    let single = address.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Address(ip) => address.header.prefix_len >= if ip.is_ipv4() { 32 } else { 128 },
        _ => false,
    });
    !single && address.header.scope != AddressScope::Link
}

/// The interfaces that a default route uses; none for other routes.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind; whether the other end is elsewhere; whether it is a port of the first interface.
    type Shape = (&'static str, bool, bool);
    const PAIR: Shape = ("veth", true, false);
    const NIC: Shape = ("physical", false, false);
    const BRIDGE: Shape = ("bridge", false, false);

    fn port(shape: Shape) -> Shape {
        (shape.0, shape.1, true)
    }

    fn judged(shapes: &[Shape], ways_out: &[u32], on_subnets: &[u32]) -> Vec<u32> {
        let link = |index, (kind, peer_elsewhere, port): &Shape| Link {
            master: port.then_some(1),
            peer_elsewhere: *peer_elsewhere,
            ..Link::sample(index, &index.to_string(), kind)
        };
        let mut links = (1..).zip(shapes).map(|(index, shape)| (index, link(index, shape))).collect();
        let [ways_out, on_subnets] = [ways_out, on_subnets].map(|list| list.iter().copied().collect());
        judge(&mut links, &InterfaceRoutes { ways_out, on_subnets, ..InterfaceRoutes::default() });
        links.values().filter(|link| link.workload).map(|link| link.index).collect()
    }

    #[test]
    fn bridges_and_their_ports() {
        assert_eq!(judged(&[BRIDGE, port(PAIR), port(PAIR)], &[], &[1]), [1, 2, 3], "docker0");
        assert_eq!(judged(&[BRIDGE], &[], &[1]), [1], "docker0 before the first container");
        assert_eq!(judged(&[BRIDGE, port(NIC), port(PAIR)], &[1], &[1]), [3], "the uplink is the NIC");
        assert_eq!(judged(&[BRIDGE, port(PAIR), port(PAIR)], &[1], &[1]), [0; 0], "one of them leads out");
        assert_eq!(judged(&[BRIDGE, port(NIC), port(PAIR)], &[], &[1]), [3], "a segment with others on it");
        assert_eq!(judged(&[NIC, port(PAIR)], &[], &[2]), [0; 0], "a VRF is no bridge");
    }

    #[test]
    fn pairs_without_a_bridge() {
        assert_eq!(judged(&[NIC, PAIR], &[1], &[1]), [2]);
        assert_eq!(judged(&[PAIR], &[1], &[]), [0; 0], "a pod's own end");
        assert_eq!(judged(&[PAIR], &[], &[1]), [0; 0], "on a subnet");
    }
}
