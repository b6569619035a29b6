//! Objects as the API server sends them, reduced to the fields that are used. Other fields are skipped while parsing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::UNIX_EPOCH;

use ipnet::IpNet;
use serde::Deserialize;

use super::{HasVersion, or_default};
use crate::names::UnixNs;
use crate::names::objects::{HostPort, Namespace, Node, Owned, Owner, Pod, Service, ServicePort, Slice, Target, Uid};
use crate::names::store::Object;

macro_rules! wire {
    ($($(#[$about:meta])* $name:ident { $($(#[$how:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub(super) struct $name {
            $(#[serde(deserialize_with = "or_default")] $(#[$how])* $field: $kind,)*
        }
    )*};
}

wire! {
    Meta {
        name: String,
        namespace: String,
        uid: String,
        resource_version: String,
        creation_timestamp: String,
        labels: Labels,
        annotations: Annotations,
        owner_references: Vec<OwnerReference>,
    }
    Labels {
        #[serde(rename = "pod-template-hash")]
        template_hash: Option<String>,
        #[serde(rename = "kubernetes.io/service-name")]
        service: String,
        #[serde(rename = "topology.kubernetes.io/zone")]
        zone: Option<String>,
    }
    /// Annotations in which network plugins record a node's addresses, and the one that marks a bookmark.
    Annotations {
        #[serde(rename = "k8s.io/initial-events-end")]
        initial_events_end: String,
        #[serde(rename = "projectcalico.org/IPv4IPIPTunnelAddr")]
        calico_ipip: String,
        #[serde(rename = "projectcalico.org/IPv4VXLANTunnelAddr")]
        calico_vxlan: String,
        #[serde(rename = "projectcalico.org/IPv6VXLANTunnelAddr")]
        calico_vxlan6: String,
        #[serde(rename = "network.cilium.io/ipv4-cilium-host")]
        cilium: String,
        #[serde(rename = "network.cilium.io/ipv6-cilium-host")]
        cilium6: String,
    }
    OwnerReference {
        kind: String,
        name: String,
        uid: String,
        controller: bool,
    }
    WireOwned {
        metadata: Meta,
    }
    WireNamespace {
        metadata: Meta,
    }
    /// All labels of an object.
    Labelled {
        metadata: LabelledMeta,
    }
    LabelledMeta {
        labels: BTreeMap<String, String>,
    }
    WirePod {
        metadata: Meta,
        spec: PodSpec,
        status: PodStatus,
    }
    PodSpec {
        node_name: Option<String>,
        host_network: bool,
        containers: Vec<Container>,
        init_containers: Vec<Container>,
    }
    Container {
        ports: Vec<ContainerPort>,
    }
    ContainerPort {
        container_port: u16,
        host_port: u16,
        #[serde(rename = "hostIP")]
        host_ip: String,
        protocol: String,
    }
    PodStatus {
        phase: String,
        #[serde(rename = "podIP")]
        pod_ip: String,
        #[serde(rename = "podIPs")]
        pod_ips: Vec<Ip>,
        #[serde(rename = "hostIP")]
        host_ip: String,
        #[serde(rename = "hostIPs")]
        host_ips: Vec<Ip>,
        start_time: String,
        conditions: Vec<Condition>,
        container_statuses: Vec<ContainerStatus>,
    }
    ContainerStatus {
        state: ContainerState,
    }
    ContainerState {
        terminated: Terminated,
    }
    Terminated {
        finished_at: String,
    }
    Ip {
        ip: String,
    }
    Condition {
        #[serde(rename = "type")]
        name: String,
        status: String,
        last_transition_time: String,
    }
    WireService {
        metadata: Meta,
        spec: ServiceSpec,
        status: ServiceStatus,
    }
    ServiceSpec {
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        #[serde(rename = "externalIPs")]
        external_ips: Vec<String>,
        ports: Vec<WireServicePort>,
    }
    WireServicePort {
        protocol: String,
        port: u16,
        node_port: u16,
    }
    ServiceStatus {
        load_balancer: LoadBalancer,
    }
    LoadBalancer {
        ingress: Vec<Ip>,
    }
    WireSlice {
        metadata: Meta,
        endpoints: Vec<WireEndpoint>,
        ports: Vec<EndpointPort>,
    }
    WireEndpoint {
        addresses: Vec<String>,
        target_ref: TargetRef,
    }
    TargetRef {
        kind: String,
        name: String,
    }
    EndpointPort {
        port: u16,
        protocol: String,
    }
    WireNode {
        metadata: Meta,
        spec: NodeSpec,
        status: NodeStatus,
    }
    NodeSpec {
        #[serde(rename = "podCIDR")]
        pod_cidr: String,
        #[serde(rename = "podCIDRs")]
        pod_cidrs: Vec<String>,
    }
    NodeStatus {
        addresses: Vec<NodeAddress>,
    }
    NodeAddress {
        address: String,
    }
}

fn protocol(name: &str) -> u8 {
    match name {
        "UDP" => 17,
        "SCTP" => 132,
        _ => 6,
    }
}

/// Parses the texts that are addresses, and removes duplicates.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = texts.into_iter().filter_map(|text| text.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn time(text: &str) -> Option<UnixNs> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

impl Meta {
    fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

impl WireOwned {
    fn owned(self) -> Owned {
        let owner = self.metadata.controller().map(|owner| (owner.kind.clone(), owner.name.clone()));
        Owned { uid: Uid::of(&self.metadata.uid), owner }
    }

    pub(super) fn replica_set(self) -> Object {
        Object::ReplicaSet(self.owned())
    }

    pub(super) fn job(self) -> Object {
        Object::Job(self.owned())
    }
}

impl WireNamespace {
    pub(super) fn object(self) -> Object {
        Object::Namespace(Namespace { name: self.metadata.name, labels: Vec::new() })
    }
}

impl Labelled {
    /// The values of the labels with these keys.
    pub(super) fn values(mut self, keys: &[String]) -> Vec<Option<String>> {
        keys.iter().map(|key| self.metadata.labels.remove(key)).collect()
    }
}

impl WirePod {
    pub(super) fn object(self) -> Object {
        let WirePod { metadata, spec, status } = self;
        // The name of a Deployment's ReplicaSet ends with the hash that its pods have as a label.
        let deployment = |owner: &OwnerReference| {
            let hash = metadata.labels.template_hash.as_ref().filter(|_| owner.kind == "ReplicaSet")?;
            Some(owner.name.strip_suffix(hash)?.strip_suffix('-')?.to_owned())
        };
        let owner = metadata.controller().map(|owner| Owner {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: Uid::of(&owner.uid),
            deployment: deployment(owner),
        });
        let containers = spec.containers.iter().chain(&spec.init_containers);
        let host_ports = containers.flat_map(|container| &container.ports).filter_map(|port| {
            // In the node's network namespace both lists are the same, and one may be missing.
            let number = if spec.host_network { port.host_port.max(port.container_port) } else { port.host_port };
            let at = HostPort { ip: port.host_ip.parse().ok(), protocol: protocol(&port.protocol), port: number };
            (number != 0).then_some(at)
        });
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.name == "PodReadyToStartContainers" && condition.status == "True");
        let since = ready
            .and_then(|condition| time(&condition.last_transition_time))
            .or_else(|| time(&status.start_time))
            .or_else(|| time(&metadata.creation_timestamp));
        let finished = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        // A pod that never ran, or whose node is gone, has only conditions.
        let ends = status.container_statuses.iter().map(|container| &container.state.terminated.finished_at);
        let ends = ends.chain(status.conditions.iter().map(|condition| &condition.last_transition_time));
        Object::Pod(Pod {
            uid: Uid::of(&metadata.uid),
            owner,
            host_network: spec.host_network,
            finished,
            until: ends.filter(|_| finished).filter_map(|text| time(text)).max(),
            ips: addresses(status.pod_ips.iter().map(|ip| &ip.ip).chain([&status.pod_ip])),
            host_ips: addresses(status.host_ips.iter().map(|ip| &ip.ip).chain([&status.host_ip])),
            host_ports: host_ports.collect(),
            since: since.unwrap_or(0),
            node: spec.node_name.filter(|name| !name.is_empty()),
            namespace: metadata.namespace,
            name: metadata.name,
            labels: Vec::new(),
        })
    }
}

impl WireService {
    pub(super) fn object(self) -> Object {
        let WireService { metadata, spec, status } = self;
        let balanced = status.load_balancer.ingress.iter().map(|ingress| &ingress.ip);
        // "None" is not an address.
        let ips = spec.cluster_ips.iter().chain([&spec.cluster_ip]).chain(&spec.external_ips).chain(balanced);
        let port = |port: &WireServicePort| ServicePort {
            protocol: protocol(&port.protocol),
            port: port.port,
            node_port: (port.node_port != 0).then_some(port.node_port),
        };
        Object::Service(Service {
            ips: addresses(ips),
            ports: spec.ports.iter().map(port).collect(),
            namespace: metadata.namespace,
            name: metadata.name,
        })
    }
}

impl WireSlice {
    pub(super) fn object(self) -> Object {
        let WireSlice { metadata, endpoints, ports } = self;
        let target = |endpoint: WireEndpoint| Target {
            ips: addresses(&endpoint.addresses),
            pod: Some(endpoint.target_ref.name).filter(|_| endpoint.target_ref.kind == "Pod"),
        };
        // A slice without a service is not used.
        let is_served = !metadata.labels.service.is_empty();
        let targets = endpoints.into_iter().filter(|_| is_served).map(target).collect();
        let ports = ports.iter().filter(|port| port.port != 0).map(|port| (protocol(&port.protocol), port.port));
        Object::Slice(Slice {
            service: metadata.labels.service,
            ports: ports.collect(),
            targets,
            namespace: metadata.namespace,
            name: metadata.name,
        })
    }
}

impl WireNode {
    pub(super) fn object(self) -> Object {
        let WireNode { metadata, spec, status } = self;
        let networks = spec.pod_cidrs.iter().chain([&spec.pod_cidr]);
        let mut pod_networks: Vec<IpNet> = networks.filter_map(|text| text.parse().ok()).collect();
        pod_networks.sort_unstable();
        pod_networks.dedup();
        let noted = &metadata.annotations;
        let tunnels = [&noted.calico_ipip, &noted.calico_vxlan, &noted.calico_vxlan6, &noted.cilium, &noted.cilium6];
        let mut ips = addresses(status.addresses.iter().map(|address| &address.address).chain(tunnels));
        // The first address of the network is flannel's end of its tunnel.
        ips.extend(pod_networks.iter().map(IpNet::network));
        ips.sort_unstable();
        ips.dedup();
        let zone = metadata.labels.zone.filter(|zone| !zone.is_empty());
        Object::Node(Node { name: metadata.name, zone, ips, pod_networks })
    }
}

macro_rules! has_version {
    ($($kind:ty),*) => {$(
        impl HasVersion for $kind {
            fn version(&mut self) -> String {
                std::mem::take(&mut self.metadata.resource_version)
            }

            fn is_whole(&self) -> bool {
                self.metadata.annotations.initial_events_end == "true"
            }
        }
    )*};
}

has_version!(WirePod, WireService, WireSlice, WireNode, WireOwned, WireNamespace);
