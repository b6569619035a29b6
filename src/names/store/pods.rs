//! Pods: which addresses and ports they have, and when.

use std::net::IpAddr;
use std::sync::Arc;

use super::lingering::{Departed, LINGER_NS, Locator};
use super::{Store, hash_of};
use crate::flow::{LabelValues, Party};
use crate::names::UnixNs;
use crate::names::index::{Name, Port, SKEW_NS, Tenancy, Tenant, neighbourhood};
use crate::names::objects::{Owner, Pod, Uid};
use crate::names::store::Kind;

#[derive(Debug)]
pub(super) struct PodEntry {
    hash: u64,
    pub(super) round: u32,
    owner: Option<Uid>,
    /// Its own labels, without those of its namespace.
    labels: Option<LabelValues>,
    party: Arc<Party>,
    from: UnixNs,
    /// True if it no longer has the addresses and ports in `locators`.
    finished: bool,
    locators: Box<[Locator]>,
}

impl PodEntry {
    pub(super) fn owner(&self) -> Option<Uid> {
        self.owner
    }

    /// The addresses and ports that it has now.
    fn held(&self) -> &[Locator] {
        if self.finished { &[] } else { &self.locators }
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
        let labels = self.labels(&pod.labels);
        let (party, mut locators) = (self.party(pod, labels.as_ref()), self.locators(pod));
        let old = self.pods.remove(&pod.uid);
        // The pod did not have a later address from its start.
        let moved = |old: &PodEntry| !pod.finished && !old.locators.iter().any(|locator| locators.contains(locator));
        let from = match old.as_ref().filter(|old| !old.locators.is_empty()) {
            Some(old) if moved(old) => now,
            Some(old) => old.from,
            None => pod.since.min(now),
        };
        let held = old.as_ref().map_or(&[][..], PodEntry::held);
        for locator in held.iter().filter(|locator| pod.finished || !locators.contains(locator)) {
            self.leave(pod.uid, locator, now, now);
        }
        let tenant = Tenant::new(pod.uid, from, Arc::clone(&party));
        if pod.finished {
            let had = old.map_or_else(Box::default, |old| old.locators);
            locators.retain(|locator| !had.contains(locator));
            self.record_past(&locators, &tenant, pod.until, now);
            locators.extend(had);
        } else {
            for locator in &locators {
                self.enter(locator, tenant.clone(), !held.contains(locator));
            }
        }
        let owner = pod.owner.as_ref().map(|owner| owner.uid);
        let (finished, locators) = (pod.finished, locators.into());
        let entry = PodEntry { hash, round, owner, labels, party, from, finished, locators };
        self.pods.insert(pod.uid, entry);
    }

    /// Records addresses and ports of a finished pod that were not reported while it ran. A status is written about a second after
    /// the fact, so the first one with the address of a short Job's pod may be its last.
    fn record_past(&mut self, locators: &[Locator], tenant: &Tenant, until: Option<UnixNs>, now: UnixNs) {
        let until = until.map_or(now, |until| until.saturating_add(SKEW_NS).min(now));
        // An agent that starts gets all finished pods that have not been deleted yet.
        if until.saturating_add(LINGER_NS) <= now {
            return;
        }
        for locator in locators {
            self.enter(locator, tenant.clone(), true);
            self.leave(tenant.uid(), locator, until, now);
        }
    }

    /// Deletes a pod. Its last report is applied first, because it may be the first one with the pod's address.
    pub(super) fn finish_and_delete_pod(&mut self, pod: &Pod, now: UnixNs) {
        self.apply_pod(&Pod { finished: true, ..pod.clone() }, now);
        self.delete_pod(pod.uid, now);
    }

    pub(super) fn delete_pod(&mut self, uid: Uid, now: UnixNs) {
        let Some(entry) = self.pods.remove(&uid) else { return };
        for locator in entry.held() {
            self.leave(uid, locator, now, now);
        }
    }

    /// Renames the pods of owners, nodes and namespaces that are new or have changed.
    pub(super) fn rename_pods(&mut self) {
        let reowned = std::mem::take(&mut self.reowned);
        let rezoned = std::mem::take(&mut self.rezoned);
        let relabelled = std::mem::take(&mut self.relabelled);
        let is_affected = |pod: &PodEntry| {
            let owner = pod.owner.is_some_and(|owner| reowned.contains(&owner));
            owner
                || pod.party.node.as_ref().is_some_and(|node| rezoned.contains(node))
                || pod.party.namespace.as_ref().is_some_and(|namespace| relabelled.contains(namespace))
        };
        let affected: Vec<Uid> = self.pods.iter().filter(|(_, pod)| is_affected(pod)).map(|(uid, _)| *uid).collect();
        for uid in affected {
            let Some(pod) = self.pods.get(&uid) else { continue };
            let (mut party, own) = (Party::clone(&pod.party), pod.labels.clone());
            if let Some((kind, name)) = pod.owner.and_then(|owner| self.owner(&owner)?.workload.clone()) {
                (party.workload_kind, party.workload) = (Some(kind), Some(name));
            }
            party.zone = party.node.as_ref().and_then(|node| self.zone(node));
            party.labels = party.namespace.clone().and_then(|namespace| self.labels_in(&namespace, own.as_ref()));
            let Some(pod) = self.pods.get(&uid).filter(|pod| party != *pod.party) else { continue };
            let (party, from, finished, locators) = (Arc::new(party), pod.from, pod.finished, pod.locators.clone());
            for locator in &locators {
                let tenant = Tenant::new(uid, from, Arc::clone(&party));
                if finished { self.rename(locator, &tenant) } else { self.enter(locator, tenant, false) }
            }
            if let Some(pod) = self.pods.get_mut(&uid) {
                pod.party = party;
            }
        }
    }

    /// Removes a departed pod from the index, unless the pod has that address or port again.
    pub(super) fn forget(&mut self, departed: &Departed) {
        self.alter(&departed.locator, |tenancy| tenancy.and_then(|tenancy| tenancy.without_ended(departed.uid)));
    }

    /// Renames a departed pod, as long as it is remembered.
    fn rename(&mut self, locator: &Locator, tenant: &Tenant) {
        self.alter(locator, |tenancy| tenancy.map(|tenancy| tenancy.renamed(tenant)));
    }

    fn alter(&mut self, locator: &Locator, change: impl FnOnce(Option<Tenancy>) -> Option<Tenancy>) {
        match locator {
            Locator::Ip(ip) => self.index.pods.alter(ip, change),
            Locator::HostPort(port) => self.index.host_ports.alter(port, change),
            Locator::HostPod(name) => self.index.host_pods.alter(name, change),
        }
        self.changed = true;
    }

    fn enter(&mut self, locator: &Locator, tenant: Tenant, is_new: bool) {
        self.alter(locator, |tenancy| Tenancy::with(tenancy, tenant));
        if let (Locator::Ip(ip), true) = (locator, is_new) {
            self.index.neighbours.alter(&neighbourhood(*ip), |count| Some(count.unwrap_or(0) + 1));
        }
    }

    fn leave(&mut self, uid: Uid, locator: &Locator, until: UnixNs, now: UnixNs) {
        self.alter(locator, |tenancy| tenancy.map(|tenancy| tenancy.ended(uid, until)));
        if let Locator::Ip(ip) = locator {
            let fewer = |count: Option<u32>| count.and_then(|count| count.checked_sub(1)).filter(|&count| count > 0);
            self.index.neighbours.alter(&neighbourhood(*ip), fewer);
        }
        self.lingering.add(uid, locator.clone(), now);
    }

    /// Returns the addresses and ports by which the pod is, or was, found.
    fn locators(&mut self, pod: &Pod) -> Vec<Locator> {
        let node_ips = if pod.host_network { &pod.ips } else { &pod.host_ips };
        let mut locators = Vec::new();
        if pod.host_network {
            locators.push(Locator::HostPod(self.name(&pod.namespace, &pod.name)));
        } else {
            locators.extend(pod.ips.iter().copied().map(Locator::Ip));
        }
        for host in &pod.host_ports {
            let at = |ip: IpAddr| Locator::HostPort(Port { ip, protocol: host.protocol, port: host.port });
            match host.ip.filter(|ip| !ip.is_unspecified()) {
                Some(ip) => locators.push(at(ip)),
                None => locators.extend(node_ips.iter().copied().map(at)),
            }
        }
        locators.sort_unstable();
        locators.dedup();
        locators
    }

    fn party(&mut self, pod: &Pod, labels: Option<&LabelValues>) -> Arc<Party> {
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
            labels: self.labels_in(&pod.namespace, labels),
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
