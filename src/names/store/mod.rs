//! The cluster's objects as they come and go, and the index that they make. Pure: time is an argument.
//!
//! Of an object only what takes it out of the index again is kept, and a hash by which an update that changes no name is told.

mod lingering;
mod nodes;
mod pods;
mod services;
mod strings;

#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use foldhash::{HashMap, HashSet};

use super::UnixNs;
use super::index::{Cluster, Index, Name, Service};
use super::objects::{self, Owned, Uid};

use lingering::Lingering;
use nodes::NodeEntry;
use pods::PodEntry;
use services::{ServiceEntry, SliceEntry};
use strings::Strings;

/// What is read of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// Endpoints of services.
    EndpointSlices,
    /// Nodes.
    Nodes,
    /// ReplicaSets, for their Deployments.
    ReplicaSets,
    /// Jobs, for their CronJobs.
    Jobs,
}

impl Kind {
    /// All of them, in the order in which they are best read.
    pub const ALL: [Kind; 6] =
        [Kind::Nodes, Kind::ReplicaSets, Kind::Jobs, Kind::Pods, Kind::Services, Kind::EndpointSlices];

    /// Without these some workloads have another name than they could have; without the others addresses are taken for what they
    /// are not.
    pub fn is_optional(self) -> bool {
        matches!(self, Kind::ReplicaSets | Kind::Jobs)
    }

    /// As in the API's paths.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pods => "pods",
            Kind::Services => "services",
            Kind::EndpointSlices => "endpointslices",
            Kind::Nodes => "nodes",
            Kind::ReplicaSets => "replicasets",
            Kind::Jobs => "jobs",
        }
    }
}

/// An object of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A pod.
    Pod(objects::Pod),
    /// A service.
    Service(objects::Service),
    /// Endpoints of a service.
    Slice(objects::Slice),
    /// A node.
    Node(objects::Node),
    /// A ReplicaSet.
    ReplicaSet(Owned),
    /// A Job.
    Job(Owned),
}

/// Objects of each kind, in the order of [`Kind::ALL`].
pub type Counts = [(Kind, usize); 6];

/// An owner, and who owns it in turn.
#[derive(Debug)]
struct OwnerEntry {
    round: u32,
    workload: Option<(Arc<str>, Arc<str>)>,
}

/// The objects and their index.
#[derive(Debug)]
pub struct Store {
    index: Index,
    strings: Strings,
    pods: HashMap<Uid, PodEntry>,
    services: HashMap<Name, ServiceEntry>,
    slices: HashMap<Name, SliceEntry>,
    nodes: HashMap<Arc<str>, NodeEntry>,
    replica_sets: HashMap<Uid, OwnerEntry>,
    jobs: HashMap<Uid, OwnerEntry>,
    /// One for all that speak of a service.
    identities: HashMap<Name, Arc<Service>>,
    /// Of the listing that goes on, or went on last, by kind: what it did not mention is gone.
    rounds: [u32; 6],
    /// Own addresses of the node this runs on that no object tells.
    local: Vec<IpAddr>,
    /// Owners that pods have and that were not heard of.
    awaited: HashSet<Uid>,
    /// Owners and nodes whose pods must be called otherwise.
    reowned: HashSet<Uid>,
    rezoned: HashSet<Arc<str>>,
    networks_changed: bool,
    lingering: Lingering,
    changed: bool,
}

/// So many owners may be waited for whose pods are gone.
const AWAITED_FEW: usize = 1024;

fn hash_of(object: &impl Hash) -> u64 {
    FixedState::with_seed(0).hash_one(object)
}

impl Store {
    /// Nothing but what this index has.
    pub fn new(index: Index) -> Store {
        Store {
            index,
            strings: Strings::default(),
            pods: HashMap::default(),
            services: HashMap::default(),
            slices: HashMap::default(),
            nodes: HashMap::default(),
            replica_sets: HashMap::default(),
            jobs: HashMap::default(),
            identities: HashMap::default(),
            rounds: [0; 6],
            local: Vec::new(),
            awaited: HashSet::default(),
            reowned: HashSet::default(),
            rezoned: HashSet::default(),
            networks_changed: false,
            lingering: Lingering::default(),
            changed: false,
        }
    }

    /// An object is there, or is otherwise than before.
    pub fn apply(&mut self, object: &Object, now: UnixNs) {
        match object {
            Object::Pod(pod) => self.apply_pod(pod, now),
            Object::Service(service) => self.apply_service(service),
            Object::Slice(slice) => self.apply_slice(slice),
            Object::Node(node) => self.apply_node(node),
            Object::ReplicaSet(owned) => self.apply_owner(Kind::ReplicaSets, owned),
            Object::Job(owned) => self.apply_owner(Kind::Jobs, owned),
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, object: &Object, now: UnixNs) {
        match object {
            Object::Pod(pod) => self.bury_pod(pod, now),
            Object::Service(service) => {
                let name = self.name(&service.namespace, &service.name);
                self.delete_service(&name);
            }
            Object::Slice(slice) => {
                let name = self.name(&slice.namespace, &slice.name);
                self.delete_slice(&name);
            }
            Object::Node(node) => self.delete_node(&node.name),
            // Their pods keep the name: garbage is collected from the owner down.
            Object::ReplicaSet(owned) => drop(self.replica_sets.remove(&owned.uid)),
            Object::Job(owned) => drop(self.jobs.remove(&owned.uid)),
        }
    }

    /// All objects of a kind are about to be applied.
    pub fn begin(&mut self, kind: Kind) {
        let round = &mut self.rounds[kind as usize];
        *round = round.wrapping_add(1);
    }

    /// They were. What was not among them is gone.
    pub fn finish(&mut self, kind: Kind, now: UnixNs) {
        let round = self.rounds[kind as usize];
        match kind {
            Kind::Pods => {
                let gone = gone(&self.pods, |pod| pod.round != round);
                gone.into_iter().for_each(|uid| self.delete_pod(uid, now));
            }
            Kind::Services => {
                let gone = gone(&self.services, |service| service.round != round);
                gone.iter().for_each(|name| self.delete_service(name));
            }
            Kind::EndpointSlices => {
                let gone = gone(&self.slices, |slice| slice.round != round);
                gone.iter().for_each(|name| self.delete_slice(name));
            }
            Kind::Nodes => {
                let gone = gone(&self.nodes, |node| node.round != round);
                gone.iter().for_each(|name| self.delete_node(name));
            }
            Kind::ReplicaSets => self.replica_sets.retain(|_, owner| owner.round == round),
            Kind::Jobs => self.jobs.retain(|_, owner| owner.round == round),
        }
    }

    /// What is known of the cluster as a whole.
    pub fn set_cluster(&mut self, cluster: Cluster) {
        self.changed |= self.index.cluster != cluster;
        self.index.cluster = cluster;
    }

    /// Lets go of pods that have been gone for long.
    pub fn expire(&mut self, now: UnixNs) {
        while let Some(left) = self.lingering.expired(now) {
            self.forget(&left);
        }
        if self.awaited.len() > 2 * self.pods.len() + AWAITED_FEW {
            let owners: HashSet<Uid> = self.pods.values().filter_map(PodEntry::owner).collect();
            self.awaited.retain(|uid| owners.contains(uid));
        }
        let identities = &mut self.identities;
        self.strings.purge(|| identities.retain(|_, service| Arc::strong_count(service) > 1));
    }

    /// The index, if it is another than at the last call. Costs by what has changed.
    pub fn changes(&mut self) -> Option<Index> {
        self.settle();
        std::mem::take(&mut self.changed).then(|| self.index.clone())
    }

    /// Objects of each kind.
    pub fn counts(&self) -> Counts {
        Kind::ALL.map(|kind| {
            let count = match kind {
                Kind::Pods => self.pods.len(),
                Kind::Services => self.services.len(),
                Kind::EndpointSlices => self.slices.len(),
                Kind::Nodes => self.nodes.len(),
                Kind::ReplicaSets => self.replica_sets.len(),
                Kind::Jobs => self.jobs.len(),
            };
            (kind, count)
        })
    }

    fn apply_owner(&mut self, kind: Kind, owned: &Owned) {
        let strings = &mut self.strings;
        let workload = owned.owner.as_ref().map(|(kind, name)| (strings.get(kind), strings.get(name)));
        let entry = OwnerEntry { round: self.rounds[kind as usize], workload };
        let owners = if kind == Kind::Jobs { &mut self.jobs } else { &mut self.replica_sets };
        let differs = owners.get(&owned.uid).is_some_and(|old| old.workload != entry.workload);
        owners.insert(owned.uid, entry);
        if self.awaited.remove(&owned.uid) || differs {
            self.reowned.insert(owned.uid);
        }
    }

    /// Who owns the owner of a pod.
    fn owner(&self, uid: &Uid) -> Option<&OwnerEntry> {
        self.replica_sets.get(uid).or_else(|| self.jobs.get(uid))
    }

    /// What follows from changes of several objects is done once for all of them.
    fn settle(&mut self) {
        if std::mem::take(&mut self.networks_changed) {
            self.index.pod_networks = Arc::new(self.pod_networks());
            self.changed = true;
        }
        if !self.reowned.is_empty() || !self.rezoned.is_empty() {
            self.rename_pods();
        }
    }

    fn name(&mut self, namespace: &str, name: &str) -> Name {
        Name { namespace: self.strings.get(namespace), name: self.strings.get(name) }
    }

    fn identity(&mut self, namespace: &str, name: &str) -> Arc<Service> {
        let name = self.name(namespace, name);
        let service = self
            .identities
            .entry(name)
            .or_insert_with_key(|name| Arc::new(Service::new(Arc::clone(&name.namespace), Arc::clone(&name.name))));
        Arc::clone(service)
    }
}

fn gone<K: Clone, V>(entries: &HashMap<K, V>, is_gone: impl Fn(&V) -> bool) -> Vec<K> {
    entries.iter().filter(|(_, entry)| is_gone(entry)).map(|(key, _)| key.clone()).collect()
}
