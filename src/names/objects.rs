//! What is kept of the cluster's objects: only what names are made of.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::UnixNs;

/// Tells an object from others, also from a later one of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid([u8; 16]);

impl Uid {
    /// A UUID, or the hash that kubelets give static pods; what is neither is hashed.
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

/// Who controls an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `ReplicaSet`, `DaemonSet` …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Of this very object.
    pub uid: Uid,
    /// The Deployment whose ReplicaSet it is, by its name and the pod's `pod-template-hash`.
    pub deployment: Option<String>,
}

/// A port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The only address of the node that it is at.
    pub ip: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// At the node.
    pub port: u16,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Of this very pod.
    pub uid: Uid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it runs on.
    pub node: Option<String>,
    /// Its controller.
    pub owner: Option<Owner>,
    /// It has the node's addresses.
    pub host_network: bool,
    /// It will not run again: its address is no longer its own.
    pub finished: bool,
    /// When it last ran, if it has finished and says so.
    pub until: Option<UnixNs>,
    /// IPv4, IPv6 or both.
    pub ips: Vec<IpAddr>,
    /// Those of its node.
    pub host_ips: Vec<IpAddr>,
    /// Ports that it has at the node's addresses.
    pub host_ports: Vec<HostPort>,
    /// When it came to have its address, to the second.
    pub since: UnixNs,
}

/// A port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// IP protocol number.
    pub protocol: u8,
    /// At the service's addresses.
    pub port: u16,
    /// At all nodes' addresses.
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
    /// Its namespace and the service's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service it is of.
    pub service: String,
    /// IP protocol and port, the same for all endpoints.
    pub ports: Vec<(u8, u16)>,
    /// Who serves.
    pub targets: Vec<Target>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Addresses of any type that are addresses.
    pub ips: Vec<IpAddr>,
    /// Where its pods have their addresses, if the cluster says so.
    pub pod_networks: Vec<IpNet>,
}

/// A ReplicaSet or Job, and who controls it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owned {
    /// Of this very object.
    pub uid: Uid,
    /// Kind and name of its controller, if it has one.
    pub owner: Option<(String, String)>,
}
