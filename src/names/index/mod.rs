//! The index from addresses to names. It is immutable once published, and uses no clock, locks or I/O.

mod claims;
mod networks;
mod sharded;
mod tenancy;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::UnixNs;
use crate::flow::Party;

pub(super) use claims::{Claims, Endpoint, Node, Service};
pub use networks::NamedNetwork;
pub(super) use networks::neighbourhood;
use networks::{Networks, is_private};
pub(super) use sharded::Sharded;
pub(super) use tenancy::{SKEW_NS, Tenancy, Tenant};

/// One endpoint of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; 0 if the protocol has none.
    pub port: u16,
}

/// The name of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Known: a pod, a service or a node.
    Known(Arc<Party>),
    /// It may belong to a pod or a service that has not been reported yet. Look it up again when [`super::Names::generation`] has
    /// changed. If that takes too long, use this: the dialled service without its pod, the name of a network, or nothing.
    NotYet(Option<Arc<Party>>),
    /// Outside of the cluster: the name of its network if that has one, otherwise `external`; `None` without a cluster.
    External(Option<Arc<Party>>),
}

impl Answer {
    /// Returns what is known so far.
    pub fn party(&self) -> Option<&Arc<Party>> {
        match self {
            Answer::Known(party) => Some(party),
            Answer::NotYet(party) | Answer::External(party) => party.as_ref(),
        }
    }
}

/// How much of a cluster the index covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cluster {
    /// There is no cluster: every address is external, named after its network if that has a name.
    #[default]
    Absent,
    /// Not all objects have been read yet: an unknown address may become known.
    Partial,
    /// All objects have been read, and changes are followed.
    Whole,
    /// As `Whole`, but only with this node's pods. For other pods, the pod CIDRs identify the node.
    Node,
}

/// A port at an address. The address [`ALL_NODES`] stands for all nodes (NodePort); port and protocol 0 for all ports of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Port {
    pub(super) ip: IpAddr,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// Clients go on for so long to try the address of a pod that is gone.
const LOST_NS: u64 = 120_000_000_000;

pub(super) const ALL_NODES: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A namespace and a name in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// Numbers of entries in an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Addresses of pods and nodes, and neighbourhoods of pods.
    pub addresses: [usize; 3],
    /// Host ports of pods, ports of services, and endpoints.
    pub ports: [usize; 3],
    /// Pods in their node's network namespace.
    pub host_pods: usize,
    /// Pod CIDRs of nodes.
    pub networks: usize,
}

/// Names of addresses and ports.
#[derive(Clone, Debug)]
pub struct Index {
    pub(super) cluster: Cluster,
    /// Pods with their own addresses.
    pub(super) pods: Sharded<IpAddr, Tenancy>,
    /// The number of pod addresses in each neighbourhood.
    pub(super) neighbours: Sharded<IpAddr, u32>,
    /// Pods by their ports on the node.
    pub(super) host_ports: Sharded<Port, Tenancy>,
    /// Pods in their node's network namespace, by name.
    pub(super) host_pods: Sharded<Name, Tenancy>,
    pub(super) nodes: Sharded<IpAddr, Claims<Node>>,
    pub(super) fronts: Sharded<Port, Claims<Service>>,
    pub(super) endpoints: Sharded<Port, Claims<Endpoint>>,
    /// Pod CIDRs of the nodes.
    pub(super) pod_networks: Arc<JointPrefixMap<IpNet, Arc<Party>>>,
    /// The node that the agent runs on.
    pub(super) node: Arc<str>,
    networks: Arc<Networks>,
}

/// The pod or node that has an address at a given time.
enum Holder<'a> {
    Known(&'a Arc<Party>),
    /// Only at another time did a pod have the address.
    Gone,
    Unknown,
}

impl Index {
    /// Creates an index that knows only the named networks. `node` is the name of the node that the agent runs on.
    pub fn new(networks: &[NamedNetwork], cluster: Cluster, node: &str) -> Index {
        Index {
            cluster,
            pods: Sharded::default(),
            neighbours: Sharded::default(),
            host_ports: Sharded::default(),
            host_pods: Sharded::default(),
            nodes: Sharded::default(),
            fronts: Sharded::default(),
            endpoints: Sharded::default(),
            pod_networks: Arc::default(),
            node: node.into(),
            networks: Arc::new(Networks::new(networks)),
        }
    }

    /// How much of a cluster it covers.
    pub fn cluster(&self) -> Cluster {
        self.cluster
    }

    /// The numbers of its entries.
    pub fn size(&self) -> Size {
        Size {
            addresses: [self.pods.len(), self.nodes.len(), self.neighbours.len()],
            ports: [self.host_ports.len(), self.fronts.len(), self.endpoints.len()],
            host_pods: self.host_pods.len(),
            networks: self.pod_networks.len(),
        }
    }

    /// True if a pod had this address until at most two minutes before `at`, and no other has it then.
    pub fn has_lost_its_pod(&self, ip: IpAddr, at: UnixNs) -> bool {
        self.pods.get(&ip).is_some_and(|tenancy| tenancy.has_ended(at, LOST_NS))
    }

    /// Looks up the client of a flow that started at time `at`. Equal answers share the same party.
    pub fn client(&self, end: End, protocol: u8, at: UnixNs) -> Answer {
        match self.holder(end, protocol, at) {
            Holder::Known(party) => Answer::Known(Arc::clone(party)),
            Holder::Gone => Answer::NotYet(None),
            Holder::Unknown => self.service_or_fallback(end.ip),
        }
    }

    /// Looks up the server of a flow: the address the client dialled, and the backend that answers if NAT revealed it. The answer
    /// is the backend pod with the dialled service's name, or only the service if the pod is unknown. A pod that was dialled
    /// directly gets the name of the service that it is an endpoint of at this port, the first by namespace and name if there are
    /// several.
    pub fn server(&self, dialled: End, backend: Option<End>, protocol: u8, at: UnixNs) -> Answer {
        match (self.service(dialled, protocol), backend) {
            (Some(service), None) => Answer::Known(Arc::clone(&service.party)),
            (Some(service), Some(backend)) => self.served(service, backend, protocol, at),
            (None, None) => self.dialled_directly(dialled, protocol, at),
            (None, Some(backend)) => match self.dialled_directly(backend, protocol, at) {
                // If the translation leads out of the cluster, the dialled address is more informative.
                Answer::External(_) => self.dialled_directly(dialled, protocol, at),
                answer => answer,
            },
        }
    }

    fn served(&self, service: &Arc<Service>, backend: End, protocol: u8, at: UnixNs) -> Answer {
        match self.holder(backend, protocol, at) {
            Holder::Known(base) => Answer::Known(self.as_endpoint(service, backend, protocol, base)),
            Holder::Gone => Answer::NotYet(Some(Arc::clone(&service.party))),
            Holder::Unknown => match self.fallback(backend.ip) {
                Answer::Known(node) => Answer::Known(self.as_endpoint(service, backend, protocol, &node)),
                Answer::NotYet(_) => Answer::NotYet(Some(Arc::clone(&service.party))),
                Answer::External(_) => Answer::Known(Arc::clone(&service.party)),
            },
        }
    }

    fn as_endpoint(&self, service: &Service, end: End, protocol: u8, base: &Arc<Party>) -> Arc<Party> {
        let claims = self.endpoints.get(&Port { ip: end.ip, protocol, port: end.port });
        let endpoint = claims.and_then(|claims| claims.all().iter().find(|endpoint| *endpoint.service == *service));
        match endpoint {
            Some(endpoint) => endpoint.served_by(base),
            // Rare: the backend is no longer an endpoint, or not yet.
            None => Arc::new(service.served_by(base)),
        }
    }

    fn dialled_directly(&self, end: End, protocol: u8, at: UnixNs) -> Answer {
        let endpoint = self.endpoints.get(&Port { ip: end.ip, protocol, port: end.port }).map(Claims::first);
        match (self.holder(end, protocol, at), endpoint) {
            (Holder::Known(base), Some(endpoint)) => Answer::Known(endpoint.served_by(base)),
            (Holder::Known(base), None) => Answer::Known(Arc::clone(base)),
            (Holder::Gone, _) => Answer::NotYet(None),
            (Holder::Unknown, endpoint) => match (self.service_or_fallback(end.ip), endpoint) {
                (Answer::NotYet(_), Some(endpoint)) => Answer::NotYet(Some(Arc::clone(&endpoint.service.party))),
                // An address outside of the cluster that is an endpoint of a service.
                (Answer::External(_), Some(endpoint)) => Answer::Known(Arc::clone(&endpoint.service.party)),
                (answer, _) => answer,
            },
        }
    }

    /// Finds the service at this port.
    fn service(&self, end: End, protocol: u8) -> Option<&Arc<Service>> {
        let End { ip, port } = end;
        let exact = self.fronts.get(&Port { ip, protocol, port });
        let at_nodes = || {
            let claims = self.fronts.get(&Port { ip: ALL_NODES, protocol, port })?;
            self.nodes.get(&ip).map(|_| claims)
        };
        exact.or_else(at_nodes).map(Claims::first)
    }

    /// The service with this address, whatever the port, or the fallback.
    fn service_or_fallback(&self, ip: IpAddr) -> Answer {
        match self.fronts.get(&Port { ip, protocol: 0, port: 0 }) {
            Some(claims) => Answer::Known(Arc::clone(&claims.first().party)),
            None => self.fallback(ip),
        }
    }

    /// Finds the pod or node that has the address, or the port at a node, at time `at`.
    fn holder(&self, end: End, protocol: u8, at: UnixNs) -> Holder<'_> {
        let End { ip, port } = end;
        if let Some(tenancy) = self.pods.get(&ip) {
            return tenancy.at(at).map_or(Holder::Gone, Holder::Known);
        }
        let Some(nodes) = self.nodes.get(&ip) else { return Holder::Unknown };
        let port = Port { ip, protocol, port };
        let by_its_port = self.host_ports.get(&port).and_then(|tenancy| tenancy.at(at));
        let pod = by_its_port.or_else(|| self.host_pod(&port, at));
        Holder::Known(pod.unwrap_or(&nodes.first().party))
    }

    /// Finds a pod in its node's network namespace that did not declare the port, but is a service's endpoint at it.
    fn host_pod(&self, port: &Port, at: UnixNs) -> Option<&Arc<Party>> {
        let claims = self.endpoints.get(port)?;
        claims.all().iter().find_map(|endpoint| {
            let namespace = Arc::clone(&endpoint.service.namespace);
            let name = Name { namespace, name: Arc::clone(endpoint.pod.as_ref()?) };
            self.host_pods.get(&name)?.at(at)
        })
    }

    /// The answer for an address that no known object has.
    fn fallback(&self, ip: IpAddr) -> Answer {
        let named = self.networks.of(ip);
        if self.cluster == Cluster::Absent {
            return Answer::External(named.map(|(_, party)| Arc::clone(party)));
        }
        if let Some((network, node)) = self.pod_networks.get_lpm(&IpNet::from(ip))
            && named.is_none_or(|(named, _)| named.prefix_len() <= network.prefix_len())
        {
            let remote = self.cluster == Cluster::Node && node.node.as_ref() != Some(&self.node);
            return if remote { Answer::Known(Arc::clone(node)) } else { Answer::NotYet(None) };
        }
        let special = self.networks.special(ip);
        let party = named.map(|(_, party)| party).or(special).unwrap_or(self.networks.external());
        let party = Some(Arc::clone(party));
        let is_ours = special.is_none()
            && (self.cluster == Cluster::Partial
                || named.is_none() && is_private(ip)
                || self.neighbours.get(&neighbourhood(ip)).is_some());
        if is_ours { Answer::NotYet(party) } else { Answer::External(party) }
    }
}
