//! Pods: whose address, whose port.

use std::net::IpAddr;
use std::sync::Arc;

use super::lingering::{Left, Place};
use super::{Store, hash_of};
use crate::flow::Party;
use crate::names::UnixNs;
use crate::names::index::{Name, Port, Tenancy, Tenant, neighbourhood};
use crate::names::objects::{Owner, Pod, Uid};
use crate::names::store::Kind;

#[derive(Debug)]
pub(super) struct PodEntry {
    hash: u64,
    pub(super) round: u32,
    owner: Option<Uid>,
    party: Arc<Party>,
    from: UnixNs,
    places: Box<[Place]>,
}

impl PodEntry {
    pub(super) fn owner(&self) -> Option<Uid> {
        self.owner
    }
}

impl Store {
    pub(super) fn apply_pod(&mut self, pod: &Pod, now: UnixNs) {
        let (hash, round) = (hash_of(pod), self.rounds[Kind::Pods as usize]);
        if let Some(known) = self.pods.get_mut(&pod.uid)
            && known.hash == hash
        {
            known.round = round;
            return;
        }
        let party = self.party(pod);
        let places = self.places(pod);
        let old = self.pods.remove(&pod.uid);
        let had = old.as_ref().map_or(&[][..], |old| &old.places);
        // A later address was not its own from the beginning.
        let moved = !had.is_empty() && !had.iter().any(|place| places.contains(place));
        let from = match &old {
            Some(old) if !had.is_empty() && !moved => old.from,
            Some(_) if moved => now,
            _ => pod.since.min(now),
        };
        for place in had.iter().filter(|place| !places.contains(place)) {
            self.leave(pod.uid, place, now);
        }
        for place in &places {
            self.enter(place, Tenant::new(pod.uid, from, Arc::clone(&party)), !had.contains(place));
        }
        let owner = pod.owner.as_ref().map(|owner| owner.uid);
        let entry = PodEntry { hash, round, owner, party, from, places: places.into() };
        self.pods.insert(pod.uid, entry);
    }

    pub(super) fn delete_pod(&mut self, uid: Uid, now: UnixNs) {
        let Some(entry) = self.pods.remove(&uid) else { return };
        for place in &entry.places {
            self.leave(uid, place, now);
        }
    }

    /// What follows from an owner or a node that was not known, or is otherwise than before.
    pub(super) fn rename_pods(&mut self) {
        let reowned = std::mem::take(&mut self.reowned);
        let rezoned = std::mem::take(&mut self.rezoned);
        let concerns = |pod: &PodEntry| {
            let owner = pod.owner.is_some_and(|owner| reowned.contains(&owner));
            owner || pod.party.node.as_ref().is_some_and(|node| rezoned.contains(node))
        };
        let concerned: Vec<Uid> = self.pods.iter().filter(|(_, pod)| concerns(pod)).map(|(uid, _)| *uid).collect();
        for uid in concerned {
            let Some(pod) = self.pods.get(&uid) else { continue };
            let mut party = Party::clone(&pod.party);
            if let Some((kind, name)) = pod.owner.and_then(|owner| self.owner(&owner)?.workload.clone()) {
                (party.workload_kind, party.workload) = (Some(kind), Some(name));
            }
            party.zone = party.node.as_ref().and_then(|node| self.zone(node));
            if party == *pod.party {
                continue;
            }
            let (party, from, places) = (Arc::new(party), pod.from, pod.places.clone());
            for place in &places {
                self.enter(place, Tenant::new(uid, from, Arc::clone(&party)), false);
            }
            if let Some(pod) = self.pods.get_mut(&uid) {
                pod.party = party;
            }
        }
    }

    /// Takes one that left out of the index, where it did not come back.
    pub(super) fn forget(&mut self, left: &Left) {
        let remove = |tenancy: Option<Tenancy>| tenancy.and_then(|tenancy| tenancy.without_ended(left.uid));
        match &left.place {
            Place::Ip(ip) => self.index.pods.alter(ip, remove),
            Place::HostPort(port) => self.index.host_ports.alter(port, remove),
            Place::HostPod(name) => self.index.host_pods.alter(name, remove),
        }
        self.changed = true;
    }

    fn enter(&mut self, place: &Place, tenant: Tenant, anew: bool) {
        let put = |tenancy| Tenancy::with(tenancy, tenant);
        match place {
            Place::Ip(ip) => {
                self.index.pods.alter(ip, put);
                if anew {
                    self.index.neighbours.alter(&neighbourhood(*ip), |count| Some(count.unwrap_or(0) + 1));
                }
            }
            Place::HostPort(port) => self.index.host_ports.alter(port, put),
            Place::HostPod(name) => self.index.host_pods.alter(name, put),
        }
        self.changed = true;
    }

    fn leave(&mut self, uid: Uid, place: &Place, now: UnixNs) {
        let end = |tenancy: Option<Tenancy>| tenancy.map(|tenancy| tenancy.ended(uid, now));
        match place {
            Place::Ip(ip) => {
                self.index.pods.alter(ip, end);
                let fewer =
                    |count: Option<u32>| count.and_then(|count| count.checked_sub(1)).filter(|&count| count > 0);
                self.index.neighbours.alter(&neighbourhood(*ip), fewer);
            }
            Place::HostPort(port) => self.index.host_ports.alter(port, end),
            Place::HostPod(name) => self.index.host_pods.alter(name, end),
        }
        self.lingering.add(uid, place.clone(), now);
        self.changed = true;
    }

    /// Where it is found.
    fn places(&mut self, pod: &Pod) -> Vec<Place> {
        if pod.finished {
            return Vec::new();
        }
        let node_ips = if pod.host_network { &pod.ips } else { &pod.host_ips };
        let mut places = Vec::new();
        if pod.host_network {
            places.push(Place::HostPod(self.name(&pod.namespace, &pod.name)));
        } else {
            places.extend(pod.ips.iter().copied().map(Place::Ip));
        }
        for host in &pod.host_ports {
            let at = |ip: IpAddr| Place::HostPort(Port { ip, protocol: host.protocol, port: host.port });
            match host.ip.filter(|ip| !ip.is_unspecified()) {
                Some(ip) => places.push(at(ip)),
                None => places.extend(node_ips.iter().copied().map(at)),
            }
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    fn party(&mut self, pod: &Pod) -> Arc<Party> {
        let (kind, workload) = match &pod.owner {
            Some(owner) => self.workload(pod, owner),
            None => (self.strings.get("Pod"), self.strings.get(&pod.name)),
        };
        let node = pod.node.as_deref().map(|node| self.strings.get(node));
        let Name { namespace, name } = self.name(&pod.namespace, &pod.name);
        Arc::new(Party {
            namespace: Some(namespace),
            pod: Some(name),
            workload: Some(workload),
            workload_kind: Some(kind),
            zone: node.as_ref().and_then(|node| self.zone(node)),
            node,
            service: None,
            name: None,
        })
    }

    /// The owner's owner, if it has one.
    fn workload(&mut self, pod: &Pod, owner: &Owner) -> (Arc<str>, Arc<str>) {
        if owner.kind == "Node" {
            // A static pod: its kubelet appends the node's name to that of the manifest.
            let suffix = |name: &str| Some(name.strip_suffix(&owner.name)?.strip_suffix('-')?.to_owned());
            let name = suffix(&pod.name).unwrap_or_else(|| pod.name.clone());
            return (self.strings.get("Pod"), self.strings.get(&name));
        }
        match self.owner(&owner.uid) {
            Some(known) => {
                if let Some(workload) = &known.workload {
                    return workload.clone();
                }
            }
            None if matches!(owner.kind.as_str(), "ReplicaSet" | "Job") => {
                self.awaited.insert(owner.uid);
                if let Some(deployment) = &owner.deployment {
                    return (self.strings.get("Deployment"), self.strings.get(deployment));
                }
            }
            None => {}
        }
        (self.strings.get(&owner.kind), self.strings.get(&owner.name))
    }
}
