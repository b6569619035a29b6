//! Nodes: their addresses, zones and pod CIDRs.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::{Kind, Store, hash_of};
use crate::flow::Party;
use crate::names::index::{self, Claims};
use crate::names::objects::Node;

#[derive(Debug)]
pub(super) struct NodeEntry {
    hash: u64,
    pub(super) round: u32,
    node: Arc<index::Node>,
    declared: Box<[IpAddr]>,
    claimed: Box<[IpAddr]>,
    pod_networks: Box<[IpNet]>,
}

impl Store {
    /// Sets the addresses of this node's interfaces, including those of bridges and tunnels, which no object lists. The kubelet's
    /// probes of pods come from these.
    pub fn set_local(&mut self, ips: Vec<IpAddr>) {
        if ips != self.local {
            self.local = ips;
            let own = Arc::clone(&self.index.node);
            self.claim_addresses(&own);
        }
    }

    pub(super) fn apply_node(&mut self, node: &Node) {
        let (hash, round) = (hash_of(node), self.rounds[Kind::Nodes as usize]);
        if let Some(known) = self.nodes.get_mut(&*node.name)
            && known.hash == hash
        {
            known.round = round;
            return;
        }
        let zone = self.zone(&node.name);
        self.delete_node(&node.name);
        let name = self.strings.get(&node.name);
        let party = Party {
            node: Some(Arc::clone(&name)),
            zone: node.zone.as_deref().map(|zone| self.strings.get(zone)),
            ..Party::default()
        };
        if zone != party.zone {
            self.rezoned.insert(Arc::clone(&name));
        }
        self.networks_changed |= !node.pod_networks.is_empty();
        let entry = NodeEntry {
            hash,
            round,
            node: Arc::new(index::Node { name: Arc::clone(&name), party: Arc::new(party) }),
            declared: node.ips.clone().into(),
            claimed: Box::default(),
            pod_networks: node.pod_networks.clone().into(),
        };
        self.nodes.insert(Arc::clone(&name), entry);
        self.claim_addresses(&name);
    }

    /// Removes a node. Its pods keep its zone.
    pub(super) fn delete_node(&mut self, name: &str) {
        let Some(entry) = self.nodes.remove(name) else { return };
        self.networks_changed |= !entry.pod_networks.is_empty();
        self.unclaim(&entry.node, &entry.claimed);
        self.changed = true;
    }

    pub(super) fn zone(&self, node: &str) -> Option<Arc<str>> {
        self.nodes.get(node)?.node.party.zone.clone()
    }

    pub(super) fn pod_networks(&self) -> JointPrefixMap<IpNet, Arc<Party>> {
        let mut networks: Vec<(IpNet, &Arc<index::Node>)> = self
            .nodes
            .values()
            .flat_map(|entry| entry.pod_networks.iter().map(|network| (network.trunc(), &entry.node)))
            .collect();
        // If two nodes have the same network, the last by name gets it.
        networks.sort_unstable();
        networks.into_iter().map(|(network, node)| (network, Arc::clone(&node.party))).collect()
    }

    fn claim_addresses(&mut self, name: &str) {
        let Some(entry) = self.nodes.get_mut(name) else { return };
        let mut ips = entry.declared.to_vec();
        if *entry.node.name == *self.index.node {
            ips.extend(&self.local);
        }
        ips.sort_unstable();
        ips.dedup();
        let claimed = std::mem::replace(&mut entry.claimed, ips.clone().into());
        let node = Arc::clone(&entry.node);
        self.unclaim(&node, &claimed);
        for ip in ips {
            self.index.nodes.alter(&ip, |claims| Claims::with(claims, Arc::clone(&node)));
        }
        self.changed = true;
    }

    fn unclaim(&mut self, node: &index::Node, ips: &[IpAddr]) {
        for ip in ips {
            self.index.nodes.alter(ip, |claims| claims.and_then(|claims| claims.without(node)));
        }
    }
}
