//! The cluster's objects as they are added and removed, and the index built from them. The logic is pure: time is an argument.
//!
//! For each object the store keeps only what it needs to remove it from the index, and a hash to recognise updates that change no
//! name.

mod labels;
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

use labels::{LabelSets, NamespaceEntry};
use lingering::Lingering;
use nodes::NodeEntry;
use pods::PodEntry;
use services::{ServiceEntry, SliceEntry};
use strings::Strings;

/// The kinds of objects that are read from a cluster.
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
    /// Namespaces, for their labels.
    Namespaces,
}

impl Kind {
    /// All kinds, in the best order to read them: owners and nodes before pods.
    pub const ALL: [Kind; 7] = [
        Kind::Nodes,
        Kind::ReplicaSets,
        Kind::Jobs,
        Kind::Namespaces,
        Kind::Pods,
        Kind::Services,
        Kind::EndpointSlices,
    ];

    /// True if names work without this kind. Without the optional kinds some workloads get a less precise name, or no labels; without
    /// the others addresses would get wrong names.
    pub fn is_optional(self) -> bool {
        matches!(self, Kind::ReplicaSets | Kind::Jobs | Kind::Namespaces)
    }

    /// The plural resource name, as in the API's paths.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pods => "pods",
            Kind::Services => "services",
            Kind::EndpointSlices => "endpointslices",
            Kind::Nodes => "nodes",
            Kind::ReplicaSets => "replicasets",
            Kind::Jobs => "jobs",
            Kind::Namespaces => "namespaces",
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
    /// A namespace.
    Namespace(objects::Namespace),
}

impl Object {
    /// Sets the values of the chosen labels, if they matter for this kind.
    pub(super) fn set_labels(&mut self, values: objects::Labels) {
        match self {
            Object::Pod(pod) => pod.labels = values,
            Object::Namespace(namespace) => namespace.labels = values,
            _ => {}
        }
    }
}

/// Number of objects of each kind, in the order of [`Kind::ALL`].
pub type Counts = [(Kind, usize); 7];

/// The owner of a pod, with the workload that owns it in turn.
#[derive(Debug)]
struct OwnerEntry {
    round: u32,
    workload: Option<(Arc<str>, Arc<str>)>,
}

/// The cluster's objects and the index of their names.
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
    namespaces: HashMap<Arc<str>, NamespaceEntry>,
    /// One shared identity per service, used by all objects that refer to it.
    identities: HashMap<Name, Arc<Service>>,
    /// Number of the current or latest listing, by kind. An object that it does not contain has been deleted.
    rounds: [u32; 7],
    /// Addresses of the agent's node that no object lists.
    local: Vec<IpAddr>,
    /// Owners of pods that have not been reported yet.
    awaited: HashSet<Uid>,
    /// Owners, nodes and namespaces whose pods have to be renamed.
    reowned: HashSet<Uid>,
    rezoned: HashSet<Arc<str>>,
    relabelled: HashSet<Arc<str>>,
    label_values: LabelSets,
    networks_changed: bool,
    lingering: Lingering,
    changed: bool,
}

/// Number of awaited owners, beyond twice the pods, that are not checked for whether their pods still exist.
const AWAITED_SLACK: usize = 1024;

fn hash_of(object: &impl Hash) -> u64 {
    FixedState::with_seed(0).hash_one(object)
}

impl Store {
    /// Creates a store without objects over `index`.
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
            namespaces: HashMap::default(),
            identities: HashMap::default(),
            rounds: [0; 7],
            local: Vec::new(),
            awaited: HashSet::default(),
            reowned: HashSet::default(),
            rezoned: HashSet::default(),
            relabelled: HashSet::default(),
            label_values: LabelSets::default(),
            networks_changed: false,
            lingering: Lingering::default(),
            changed: false,
        }
    }

    /// Adds or updates an object.
    pub fn apply(&mut self, object: &Object, now: UnixNs) {
        match object {
            Object::Pod(pod) => self.apply_pod(pod, now),
            Object::Service(service) => self.apply_service(service),
            Object::Slice(slice) => self.apply_slice(slice),
            Object::Node(node) => self.apply_node(node),
            Object::ReplicaSet(owned) => self.apply_owner(Kind::ReplicaSets, owned),
            Object::Job(owned) => self.apply_owner(Kind::Jobs, owned),
            Object::Namespace(namespace) => self.apply_namespace(namespace),
        }
    }

    /// Removes an object. A deleted pod keeps its name for a while: see [`Store::expire`].
    pub fn delete(&mut self, object: &Object, now: UnixNs) {
        match object {
            Object::Pod(pod) => self.finish_and_delete_pod(pod, now),
            Object::Service(service) => {
                let name = self.name(&service.namespace, &service.name);
                self.delete_service(&name);
            }
            Object::Slice(slice) => {
                let name = self.name(&slice.namespace, &slice.name);
                self.delete_slice(&name);
            }
            Object::Node(node) => self.delete_node(&node.name),
            // Their pods keep the name, because garbage collection deletes the owner before its pods.
            Object::ReplicaSet(owned) => drop(self.replica_sets.remove(&owned.uid)),
            Object::Job(owned) => drop(self.jobs.remove(&owned.uid)),
            // Its pods are gone.
            Object::Namespace(namespace) => drop(self.namespaces.remove(namespace.name.as_str())),
        }
    }

    /// Begins a listing: all objects of this kind are about to be applied.
    pub fn begin(&mut self, kind: Kind) {
        let round = &mut self.rounds[kind as usize];
        *round = round.wrapping_add(1);
    }

    /// Ends a listing: deletes the objects of this kind that were not applied since [`Store::begin`].
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
            Kind::Namespaces => self.namespaces.retain(|_, namespace| namespace.round == round),
        }
    }

    /// Sets how much of the cluster is known.
    pub fn set_cluster(&mut self, cluster: Cluster) {
        self.changed |= self.index.cluster != cluster;
        self.index.cluster = cluster;
    }

    /// Removes the names of pods that were deleted more than two minutes ago, and releases unused memory.
    pub fn expire(&mut self, now: UnixNs) {
        while let Some(departed) = self.lingering.expired(now) {
            self.forget(&departed);
        }
        if self.awaited.len() > 2 * self.pods.len() + AWAITED_SLACK {
            let owners: HashSet<Uid> = self.pods.values().filter_map(PodEntry::owner).collect();
            self.awaited.retain(|uid| owners.contains(uid));
        }
        let (identities, label_values) = (&mut self.identities, &mut self.label_values);
        self.strings.purge(|| {
            identities.retain(|_, service| Arc::strong_count(service) > 1);
            label_values.purge();
        });
    }

    /// Returns the index if it has changed since the last call. The cost depends on how much has changed.
    pub fn changes(&mut self) -> Option<Index> {
        self.settle();
        std::mem::take(&mut self.changed).then(|| self.index.clone())
    }

    /// Returns the number of objects of each kind.
    pub fn counts(&self) -> Counts {
        Kind::ALL.map(|kind| {
            let count = match kind {
                Kind::Pods => self.pods.len(),
                Kind::Services => self.services.len(),
                Kind::EndpointSlices => self.slices.len(),
                Kind::Nodes => self.nodes.len(),
                Kind::ReplicaSets => self.replica_sets.len(),
                Kind::Jobs => self.jobs.len(),
                Kind::Namespaces => self.namespaces.len(),
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

    /// Looks up the owner of a pod among the ReplicaSets and Jobs.
    fn owner(&self, uid: &Uid) -> Option<&OwnerEntry> {
        self.replica_sets.get(uid).or_else(|| self.jobs.get(uid))
    }

    /// Applies the consequences of changed nodes, owners and namespaces, once for all changes since the last call.
    fn settle(&mut self) {
        if std::mem::take(&mut self.networks_changed) {
            self.index.pod_networks = Arc::new(self.pod_networks());
            self.changed = true;
        }
        if !self.reowned.is_empty() || !self.rezoned.is_empty() || !self.relabelled.is_empty() {
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
