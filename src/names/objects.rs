//! The parts of the cluster's objects that names are derived from. Nothing else of them is kept.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::UnixNs;

/// Identifies an object, and distinguishes it from a later one with the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid([u8; 16]);

impl Uid {
    /// Parses a UUID, or the hash that kubelets assign to static pods; any other text is hashed.
    pub fn of(text: &str) -> Uid {
        let mut digits = 0;
        let mut number = 0u128;
        for c in text.chars().filter(|c| *c != '-') {
            match c.to_digit(16) {
                Some(digit) => number = number << 4 | u128::from(digit),
                None => return Uid::hashed(text),
            }
            digits += 1;
        }
        if digits == 32 { Uid(number.to_be_bytes()) } else { Uid::hashed(text) }
    }

    fn hashed(text: &str) -> Uid {
        let half = |seed| u128::from(FixedState::with_seed(seed).hash_one(text));
        Uid((half(1) << 64 | half(2)).to_be_bytes())
    }
}

/// The controller of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `ReplicaSet`, `DaemonSet` …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
    /// The Deployment that controls this ReplicaSet, derived from its name and the pod's `pod-template-hash`.
    pub deployment: Option<String>,
}

/// A host port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The node's address that it is limited to; `None`: all of them.
    pub ip: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// The port number on the node.
    pub port: u16,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Its UID.
    pub uid: Uid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it runs on.
    pub node: Option<String>,
    /// Its controller.
    pub owner: Option<Owner>,
    /// True if it uses the node's network namespace and addresses.
    pub host_network: bool,
    /// True if it will not run again, so its address may be reused.
    pub finished: bool,
    /// When it last ran, if it has finished and its status says so.
    pub until: Option<UnixNs>,
    /// Its addresses: IPv4, IPv6 or both.
    pub ips: Vec<IpAddr>,
    /// The addresses of its node.
    pub host_ips: Vec<IpAddr>,
    /// Ports that it occupies at the node's addresses.
    pub host_ports: Vec<HostPort>,
    /// When it got its address, with a resolution of one second.
    pub since: UnixNs,
    /// Its chosen labels.
    pub labels: Labels,
}

/// The values that an object has for the chosen labels, in their order; empty if none are chosen.
pub type Labels = Vec<Option<String>>;

/// A namespace. It is read for its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its chosen labels.
    pub labels: Labels,
}

/// A port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// IP protocol number.
    pub protocol: u8,
    /// The port at the service's addresses.
    pub port: u16,
    /// The port at every node's addresses (NodePort).
    pub node_port: Option<u16>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Cluster, external and load-balancer addresses.
    pub ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// An endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The pod, if it is one.
    pub pod: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slice {
    /// Its namespace, which is also the service's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the service it belongs to.
    pub service: String,
    /// IP protocols and ports, the same for all endpoints.
    pub ports: Vec<(u8, u16)>,
    /// The endpoints.
    pub targets: Vec<Target>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Its addresses, of all address types except names.
    pub ips: Vec<IpAddr>,
    /// Its pod CIDRs, if the cluster assigns them.
    pub pod_networks: Vec<IpNet>,
}

/// A ReplicaSet or Job and its controller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owned {
    /// Its UID.
    pub uid: Uid,
    /// Kind and name of its controller, if it has one.
    pub owner: Option<(String, String)>,
}
