//! Services and their endpoints.

use std::sync::Arc;

use foldhash::HashSet;

use super::{Kind, Store, hash_of};
use crate::names::index::{self, ALL_NODES, Claims, Endpoint, Name, Port};
use crate::names::objects::{Service, Slice};

#[derive(Debug)]
pub(super) struct ServiceEntry {
    hash: u64,
    pub(super) round: u32,
    identity: Arc<index::Service>,
    fronts: Box<[Port]>,
}

/// An endpoint's port, and the pod's name if it is a pod.
type Served = (Port, Option<Arc<str>>);

#[derive(Debug)]
pub(super) struct SliceEntry {
    hash: u64,
    pub(super) round: u32,
    identity: Arc<index::Service>,
    served: Box<[Served]>,
}

impl Store {
    pub(super) fn apply_service(&mut self, service: &Service) {
        let (hash, round) = (hash_of(service), self.rounds[Kind::Services as usize]);
        let name = self.name(&service.namespace, &service.name);
        if let Some(known) = self.services.get_mut(&name)
            && known.hash == hash
        {
            known.round = round;
            return;
        }
        self.delete_service(&name);
        let identity = self.identity(&service.namespace, &service.name);
        let fronts = fronts(service);
        for front in &fronts {
            self.index.fronts.alter(front, |claims| Claims::with(claims, Arc::clone(&identity)));
        }
        self.services.insert(name, ServiceEntry { hash, round, identity, fronts: fronts.into() });
        self.changed = true;
    }

    pub(super) fn delete_service(&mut self, name: &Name) {
        let Some(entry) = self.services.remove(name) else { return };
        for front in &entry.fronts {
            self.index.fronts.alter(front, |claims| claims.and_then(|claims| claims.without(&entry.identity)));
        }
        self.changed = true;
    }

    pub(super) fn apply_slice(&mut self, slice: &Slice) {
        let (hash, round) = (hash_of(slice), self.rounds[Kind::EndpointSlices as usize]);
        let name = self.name(&slice.namespace, &slice.name);
        if let Some(known) = self.slices.get_mut(&name)
            && known.hash == hash
        {
            known.round = round;
            return;
        }
        let identity = self.identity(&slice.namespace, &slice.service);
        let served = self.served(slice);
        // A slice has up to a thousand endpoints, and few of them change at once.
        let known = self.slices.remove(&name);
        let old = known.as_ref().filter(|known| Arc::ptr_eq(&known.identity, &identity));
        let stays: HashSet<&Served> = old.map_or_else(HashSet::default, |old| {
            let now: HashSet<&Served> = served.iter().collect();
            old.served.iter().filter(|served| now.contains(served)).collect()
        });
        if let Some(known) = &known {
            let gone = known.served.iter().filter(|served| !stays.contains(served));
            self.unserve(&known.identity, gone);
        }
        for new in served.iter().filter(|served| !stays.contains(served)) {
            let endpoint = Arc::new(Endpoint::new(Arc::clone(&identity), new.1.clone()));
            self.index.endpoints.alter(&new.0, |claims| Claims::with(claims, endpoint));
        }
        self.slices.insert(name, SliceEntry { hash, round, identity, served: served.into() });
        self.changed = true;
    }

    pub(super) fn delete_slice(&mut self, name: &Name) {
        let Some(entry) = self.slices.remove(name) else { return };
        self.unserve(&entry.identity, entry.served.iter());
        self.changed = true;
    }

    fn unserve<'a>(&mut self, service: &Arc<index::Service>, gone: impl Iterator<Item = &'a Served>) {
        for (port, pod) in gone {
            let endpoint = Endpoint::new(Arc::clone(service), pod.clone());
            self.index.endpoints.alter(port, |claims| claims.and_then(|claims| claims.without(&endpoint)));
        }
    }

    fn served(&mut self, slice: &Slice) -> Vec<Served> {
        let mut served = Vec::with_capacity(slice.targets.len() * slice.ports.len());
        for target in &slice.targets {
            let pod = target.pod.as_deref().map(|pod| self.strings.get(pod));
            for &ip in &target.ips {
                let at = slice.ports.iter().map(|&(protocol, port)| Port { ip, protocol, port });
                served.extend(at.map(|port| (port, pod.clone())));
            }
        }
        served.sort_unstable();
        served.dedup();
        served
    }
}

/// Addresses and ports at which clients dial the service.
fn fronts(service: &Service) -> Vec<Port> {
    let mut fronts = Vec::new();
    for &ip in &service.ips {
        fronts.push(Port { ip, protocol: 0, port: 0 });
        fronts.extend(service.ports.iter().map(|port| Port { ip, protocol: port.protocol, port: port.port }));
    }
    let at_nodes = service.ports.iter().filter_map(|port| Some((port.protocol, port.node_port?)));
    fronts.extend(at_nodes.map(|(protocol, port)| Port { ip: ALL_NODES, protocol, port }));
    fronts.sort_unstable();
    fronts.dedup();
    fronts
}
