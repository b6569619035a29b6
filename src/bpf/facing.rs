//! Which interfaces face a workload: host ends of pairs whose other end is a pod's or a container's interface. What enters the
//! host through one has left the workload, so the hooks mean the opposite of what they mean on an uplink.
//!
//! The rule. A pair is a veth or netkit device whose peer is in another network namespace; a way out is an interface with a
//! default route.
//!
//! - A pair that a bridge has faces a workload, unless the bridge is a way out and all its ports are pairs: then one of them leads
//!   out, and nothing tells which.
//! - Another pair faces a workload if it is no way out and on no subnet: its addresses, link-local ones aside, are single ones
//!   (/32, /128).
//! - A bridge that is no way out faces workloads if all its ports do: what enters the host there came from one of them.
//!
//! What that makes of
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
//! Tap devices of virtual machines count as uplinks: nothing tells them from those of a VPN.

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
    /// It is a bridge.
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
    // A node may have very many routes: they are read only if they matter.
    if !links.iter().any(|(_, pair)| pair.peer_elsewhere || pair.bridge) {
        return Ok(HashSet::new());
    }
    Ok(judge(links, &Places::read()?))
}

fn judge(links: &[(u32, Pair)], places: &Places) -> HashSet<u32> {
    let bridges: HashSet<u32> = links.iter().filter(|(_, pair)| pair.bridge).map(|(index, _)| *index).collect();
    let ports = |bridge: u32| links.iter().filter(move |(_, pair)| pair.master == Some(bridge));
    let faces = |(index, pair): &(u32, Pair)| match pair.master.filter(|master| bridges.contains(master)) {
        _ if !pair.peer_elsewhere => false,
        Some(bridge) => !places.ways_out.contains(&bridge) || ports(bridge).any(|(_, port)| !port.peer_elsewhere),
        None => !places.ways_out.contains(index) && !places.on_subnets.contains(index),
    };
    let fronts = |bridge: u32| !places.ways_out.contains(&bridge) && ports(bridge).all(faces);
    let pairs = links.iter().filter(|link| faces(link)).map(|(index, _)| *index);
    pairs.chain(bridges.iter().copied().filter(|bridge| fronts(*bridge))).collect()
}

/// Where interfaces lead.
#[derive(Debug, Default)]
struct Places {
    /// Those with a default route.
    ways_out: HashSet<u32>,
    on_subnets: HashSet<u32>,
}

impl Places {
    fn read() -> Result<Places> {
        let mut places = Places::default();
        dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| {
            if let RouteNetlinkMessage::NewAddress(address) = message
                && is_on_subnet(&address)
            {
                places.on_subnets.insert(address.header.index);
            }
        })
        .context("list the addresses")?;
        dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()), |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                places.ways_out.extend(default_over(&route));
            }
        })
        .context("list the routes")?;
        Ok(places)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Pair = Pair { peer_elsewhere: true, master: None, bridge: false };
    const NIC: Pair = Pair { peer_elsewhere: false, master: None, bridge: false };
    const BRIDGE: Pair = Pair { peer_elsewhere: false, master: None, bridge: true };

    fn port(pair: Pair) -> Pair {
        Pair { master: Some(1), ..pair }
    }

    fn judged(links: &[Pair], ways_out: &[u32], on_subnets: &[u32]) -> Vec<u32> {
        let links: Vec<(u32, Pair)> = (1..).zip(links.iter().copied()).collect();
        let [ways_out, on_subnets] = [ways_out, on_subnets].map(|list| list.iter().copied().collect());
        let mut found: Vec<u32> = judge(&links, &Places { ways_out, on_subnets }).into_iter().collect();
        found.sort_unstable();
        found
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
