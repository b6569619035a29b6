//! The networks in which addresses are unique. Ports of a bridge that the host has no address on, and interfaces of a
//! VRF, are networks of their own: two tenants may use the same addresses there, so packets with the same ends belong
//! to two flows. Everything else is one network, the host's. Routed links, tunnels and uplinks may carry packets of any
//! network, so a packet seen there is taken for the one that was seen in a network of its own.
//!
//! Packets without a source address (a client that asks for one by DHCP, an address being probed) are told apart by
//! where they enter the host: each is seen there once, and every hook after that sees it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use super::Sent;
use crate::bpf::{Hook, Link, Record};

/// The number of a network; 0 is the host's.
pub type Network = u16;

/// The networks of all interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// The network of an interface, by its index.
    interfaces: HashMap<u32, Network>,
    /// The network of packets that an interface carries with these VLAN ids (outer, inner).
    tagged: HashMap<(u32, u16, u16), Network>,
    /// Hooks where packets enter the host, or leave its own stack.
    entrances: HashSet<(u32, Hook)>,
    /// Hooks where all packets were already seen elsewhere.
    passages: HashSet<(u32, Hook)>,
    /// Interfaces whose VLANs are ports of bridges.
    trunks: HashSet<u32>,
    /// The bridge of each port of a bridge that is not watched itself; the bridge is its own.
    left: HashMap<u32, u32>,
    /// True if a bridge has a tunnel as a port: tunnelled packets pass there too.
    tunnels: bool,
}

/// What a hook sees of packets without a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Not known: the hook that saw them first owns them.
    Unknown,
    /// None of them has been seen before.
    First,
    /// All of them have been seen before.
    Again,
}

impl Networks {
    /// Derives the networks from the interfaces; `is_watched` selects those that netmon watches.
    pub fn new(links: &BTreeMap<u32, Link>, is_watched: impl Fn(&Link) -> bool) -> Arc<Networks> {
        let mut networks = Networks::default();
        let segments = Segments::of(links);
        for link in links.values() {
            let network = segments.network(link.index);
            if network == 0 {
                continue;
            }
            networks.interfaces.insert(link.index, network);
            if let (Some(id), Some(lower)) = (link.vlan, link.lower) {
                let outer = links.get(&lower).and_then(|lower| Some((lower.lower?, lower.vlan?)));
                let tags = outer.map_or((lower, id, 0), |(root, outer)| (root, outer, id));
                networks.tagged.insert(tags, network);
            }
        }
        networks.find_entrances(links, is_watched);
        Arc::new(networks)
    }

    fn find_entrances(&mut self, links: &BTreeMap<u32, Link>, is_watched: impl Fn(&Link) -> bool) {
        // A VLAN's packets are seen at its parent interface.
        let seen =
            |link: &Link| is_watched(link) || link.repeats.and_then(|of| links.get(&of)).is_some_and(&is_watched);
        let is_port = |link: &Link, bridge: u32| link.master == Some(bridge);
        for bridge in links.values().filter(|link| link.kind == "bridge") {
            let ports = || links.values().filter(|link| is_port(link, bridge.index));
            if !ports().all(seen) {
                continue;
            }
            let left = !is_watched(bridge);
            if left {
                self.left.extend(ports().map(|port| port.index).chain([bridge.index]).map(|one| (one, bridge.index)));
            } else {
                self.entrances.insert((bridge.index, Hook::Egress));
                self.passages.insert((bridge.index, Hook::Ingress));
            }
            // What leaves by the only port can come from the host only. Of several ports, any may have received it.
            let only = left && ports().count() == 1;
            for port in ports() {
                self.tunnels |= ["vxlan", "geneve", "gretap", "ip6gretap"].contains(&port.kind.as_str());
                self.trunks.extend(port.lower.filter(|_| port.vlan.is_some()));
                let from_here = if port.has_peer_here() { &mut self.passages } else { &mut self.entrances };
                from_here.insert((port.index, Hook::Ingress));
                let out = if only { &mut self.entrances } else { &mut self.passages };
                out.insert((port.index, Hook::Egress));
            }
        }
        let alone = |link: &&Link| {
            let master = link.master.and_then(|master| links.get(&master));
            let kind = ["physical", "bond", "team", "veth", "netkit", "tun"].contains(&link.kind.as_str());
            kind && master.is_none_or(|master| master.kind == "vrf") && link.repeats.is_none() && !link.has_peer_here()
        };
        for link in links.values().filter(alone) {
            self.entrances.extend([(link.index, Hook::Ingress), (link.index, Hook::Egress)]);
        }
    }

    /// The network of the record's packets.
    #[inline]
    pub(super) fn of(&self, record: &Record) -> Network {
        if self.interfaces.is_empty() || record.inner {
            return 0;
        }
        let tags = (record.ifindex, record.vlan, record.inner_vlan);
        let tagged = || self.tagged.get(&tags).or_else(|| self.tagged.get(&(tags.0, tags.1, 0)));
        let found = if record.vlan == 0 { None } else { tagged() };
        found.or_else(|| self.interfaces.get(&record.ifindex)).copied().unwrap_or(0)
    }

    /// Whether `sent`, owned by a bridge that is not watched any more or by one of its ports, goes over to the record's port.
    ///
    /// What the host sends to an address that such a bridge has not learned leaves by all ports, and any of these may own
    /// it. The port behind which the address is sees these packets and all that follow: the other end answers there.
    /// Before an answer is known, it is the port that has seen more since the beginning.
    #[inline]
    pub(super) fn gives_way(&self, sent: &Sent, answers: &Sent, record: &Record, since_the_beginning: bool) -> bool {
        let Some(bridge) = self.left.get(&sent.ifindex) else { return false };
        let is_here = |ifindex| self.left.get(&ifindex) == Some(bridge);
        if !is_here(record.ifindex) || sent.hook() != record.hook {
            return false;
        }
        if sent.ifindex == *bridge {
            return true;
        }
        let answered = is_here(answers.ifindex) && answers.hook() == Hook::Ingress;
        let more = since_the_beginning && (record.last_ns > sent.last_ns || record.packets > sent.packets);
        record.hook == Hook::Egress && if answered { answers.ifindex == record.ifindex } else { more }
    }

    /// Whether the record's packets were seen elsewhere before they reached its hook.
    #[inline]
    pub(super) fn sight(&self, record: &Record) -> Sight {
        match record.inner {
            _ if record.source.address != [0; 16] => return Sight::Unknown,
            true if self.tunnels => return Sight::Again,
            true => return Sight::Unknown,
            false => {}
        }
        let place = (record.ifindex, record.hook);
        let from_a_bridge = record.hook == Hook::Egress && record.vlan != 0 && self.trunks.contains(&record.ifindex);
        if from_a_bridge || self.passages.contains(&place) {
            Sight::Again
        } else if self.entrances.contains(&place) {
            Sight::First
        } else {
            Sight::Unknown
        }
    }
}

/// Groups of interfaces between which packets pass without being routed.
struct Segments {
    /// The next interface of the same segment; the last one has none.
    next: HashMap<u32, u32>,
    networks: HashMap<u32, Network>,
}

impl Segments {
    fn of(links: &BTreeMap<u32, Link>) -> Segments {
        let mut segments = Segments { next: HashMap::default(), networks: HashMap::default() };
        for link in links.values() {
            let master = link.master.and_then(|master| links.get(&master));
            if let Some(master) = master.filter(|m| ["bridge", "vrf", "bond", "team"].contains(&m.kind.as_str())) {
                segments.join(link.index, master.index);
            }
            let shares = link.has_peer_here() || ["macvlan", "macvtap", "ipvlan"].contains(&link.kind.as_str());
            if let Some(lower) = link.lower.filter(|_| shares) {
                segments.join(link.index, lower);
            }
        }
        // A segment is numbered by its lowest bridge or VRF: the number stays when other interfaces come and go.
        let mut heads: BTreeMap<u32, (u32, bool, bool)> = BTreeMap::new();
        for link in links.values().filter(|link| ["bridge", "vrf"].contains(&link.kind.as_str())) {
            heads.entry(segments.last(link.index)).or_insert((link.index, false, false)).1 |= link.kind == "vrf";
        }
        for link in links.values().filter(|link| link.addressed) {
            if let Some(head) = heads.get_mut(&segments.last(link.index)) {
                head.2 = true;
            }
        }
        for (last, (head, is_vrf, addressed)) in heads {
            if is_vrf || !addressed {
                segments.networks.insert(last, (head % u32::from(Network::MAX)) as Network + 1);
            }
        }
        segments
    }

    fn last(&self, mut index: u32) -> u32 {
        while let Some(&next) = self.next.get(&index) {
            index = next;
        }
        index
    }

    fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.last(one), self.last(other));
        if one != other {
            self.next.insert(one, other);
        }
    }

    fn network(&self, index: u32) -> Network {
        self.networks.get(&self.last(index)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
