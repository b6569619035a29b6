//! Pods: which addresses and ports they have, and when.

use std::net::IpAddr;
use std::sync::Arc;

use super::lingering::{Departed, LINGER_NS, Place};
use super::{Store, hash_of};
use crate::flow::Party;
use crate::names::UnixNs;
use crate::names::index::{Name, Port, SKEW_NS, Tenancy, Tenant, neighbourhood};
use crate::names::objects::{Owner, Pod, Uid};
use crate::names::store::Kind;

#[derive(Debug)]
pub(super) struct PodEntry {
    hash: u64,
    pub(super) round: u32,
    owner: Option<Uid>,
    party: Arc<Party>,
    from: UnixNs,
    /// True if it has left its places.
    finished: bool,
    places: Box<[Place]>,
}

impl PodEntry {
    pub(super) fn owner(&self) -> Option<Uid> {
        self.owner
    }

    /// The places that it has now.
    fn held(&self) -> &[Place] {
        if self.finished { &[] } else { &self.places }
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
        let (party, mut places) = (self.party(pod), self.places(pod));
        let old = self.pods.remove(&pod.uid);
        // The pod did not have a later address from its start.
        let moved = |old: &PodEntry| !pod.finished && !old.places.iter().any(|place| places.contains(place));
        let from = match old.as_ref().filter(|old| !old.places.is_empty()) {
            Some(old) if moved(old) => now,
            Some(old) => old.from,
            None => pod.since.min(now),
        };
        let held = old.as_ref().map_or(&[][..], PodEntry::held);
        for place in held.iter().filter(|place| pod.finished || !places.contains(place)) {
            self.leave(pod.uid, place, now, now);
        }
        let tenant = Tenant::new(pod.uid, from, Arc::clone(&party));
        if pod.finished {
            let had = old.map_or_else(Box::default, |old| old.places);
            places.retain(|place| !had.contains(place));
            self.record_past(&places, &tenant, pod.until, now);
            places.extend(had);
        } else {
            for place in &places {
                self.enter(place, tenant.clone(), !held.contains(place));
            }
        }
        let owner = pod.owner.as_ref().map(|owner| owner.uid);
        let entry = PodEntry { hash, round, owner, party, from, finished: pod.finished, places: places.into() };
        self.pods.insert(pod.uid, entry);
    }

    /// Records places of a finished pod that were not reported while it ran. A status is written about a second after the fact, so the
    /// first one with the address of a short Job's pod may be its last.
    fn record_past(&mut self, places: &[Place], tenant: &Tenant, until: Option<UnixNs>, now: UnixNs) {
        let until = until.map_or(now, |until| until.saturating_add(SKEW_NS).min(now));
        // An agent that starts gets all finished pods that have not been deleted yet.
        if until.saturating_add(LINGER_NS) <= now {
            return;
        }
        for place in places {
            self.enter(place, tenant.clone(), true);
            self.leave(tenant.uid(), place, until, now);
        }
    }

    /// Deletes a pod. Its last report is applied first, because it may be the first one with the pod's address.
    pub(super) fn finish_and_delete_pod(&mut self, pod: &Pod, now: UnixNs) {
        self.apply_pod(&Pod { finished: true, ..pod.clone() }, now);
        self.delete_pod(pod.uid, now);
    }

    pub(super) fn delete_pod(&mut self, uid: Uid, now: UnixNs) {
        let Some(entry) = self.pods.remove(&uid) else { return };
        for place in entry.held() {
            self.leave(uid, place, now, now);
        }
    }

    /// Renames the pods of owners and nodes that are new or have changed.
    pub(super) fn rename_pods(&mut self) {
        let reowned = std::mem::take(&mut self.reowned);
        let rezoned = std::mem::take(&mut self.rezoned);
        let is_affected = |pod: &PodEntry| {
            let owner = pod.owner.is_some_and(|owner| reowned.contains(&owner));
            owner || pod.party.node.as_ref().is_some_and(|node| rezoned.contains(node))
        };
        let affected: Vec<Uid> = self.pods.iter().filter(|(_, pod)| is_affected(pod)).map(|(uid, _)| *uid).collect();
        for uid in affected {
            let Some(pod) = self.pods.get(&uid) else { continue };
            let mut party = Party::clone(&pod.party);
            if let Some((kind, name)) = pod.owner.and_then(|owner| self.owner(&owner)?.workload.clone()) {
                (party.workload_kind, party.workload) = (Some(kind), Some(name));
            }
            party.zone = party.node.as_ref().and_then(|node| self.zone(node));
            if party == *pod.party {
                continue;
            }
            let (party, from, finished, places) = (Arc::new(party), pod.from, pod.finished, pod.places.clone());
            for place in &places {
                let tenant = Tenant::new(uid, from, Arc::clone(&party));
                if finished { self.rename(place, &tenant) } else { self.enter(place, tenant, false) }
            }
            if let Some(pod) = self.pods.get_mut(&uid) {
                pod.party = party;
            }
        }
    }

    /// Removes a departed pod from the index, unless it has returned to that place.
    pub(super) fn forget(&mut self, departed: &Departed) {
        self.alter(&departed.place, |tenancy| tenancy.and_then(|tenancy| tenancy.without_ended(departed.uid)));
    }

    /// Renames a departed pod at a place that still remembers it.
    fn rename(&mut self, place: &Place, tenant: &Tenant) {
        self.alter(place, |tenancy| tenancy.map(|tenancy| tenancy.renamed(tenant)));
    }

    fn alter(&mut self, place: &Place, change: impl FnOnce(Option<Tenancy>) -> Option<Tenancy>) {
        match place {
            Place::Ip(ip) => self.index.pods.alter(ip, change),
            Place::HostPort(port) => self.index.host_ports.alter(port, change),
            Place::HostPod(name) => self.index.host_pods.alter(name, change),
        }
        self.changed = true;
    }

    fn enter(&mut self, place: &Place, tenant: Tenant, is_new: bool) {
        self.alter(place, |tenancy| Tenancy::with(tenancy, tenant));
        if let (Place::Ip(ip), true) = (place, is_new) {
            self.index.neighbours.alter(&neighbourhood(*ip), |count| Some(count.unwrap_or(0) + 1));
        }
    }

    fn leave(&mut self, uid: Uid, place: &Place, until: UnixNs, now: UnixNs) {
        self.alter(place, |tenancy| tenancy.map(|tenancy| tenancy.ended(uid, until)));
        if let Place::Ip(ip) = place {
            let fewer = |count: Option<u32>| count.and_then(|count| count.checked_sub(1)).filter(|&count| count > 0);
            self.index.neighbours.alter(&neighbourhood(*ip), fewer);
        }
        self.lingering.add(uid, place.clone(), now);
    }

    /// Returns the addresses and ports by which the pod is, or was, found.
    fn places(&mut self, pod: &Pod) -> Vec<Place> {
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

    /// Returns kind and name of the workload: the owner's owner if known, otherwise the owner.
    fn workload(&mut self, pod: &Pod, owner: &Owner) -> (Arc<str>, Arc<str>) {
        if owner.kind == "Node" {
            // A static pod: the kubelet appends the node's name to the name in the manifest.
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
