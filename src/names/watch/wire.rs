//! Objects as the API server writes them, and what is kept of them. Whatever is not named here is not even taken out of the text.

use std::net::IpAddr;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use crate::names::UnixNs;
use crate::names::objects::{HostPort, Node, Owned, Owner, Pod, Service, ServicePort, Slice, Target, Uid};
use crate::names::store::{Kind, Object};

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    /// What a watch that follows the list is to start from.
    pub(super) version: String,
    /// Asks for the next page, if there is one.
    pub(super) next: Option<String>,
}

/// A line of a watch.
#[derive(Debug)]
pub(super) enum Change {
    /// It is there, or is otherwise than before.
    Applied(Object, String),
    /// It is gone.
    Deleted(Object, String),
    /// Nothing has happened up to this version.
    Bookmark(String),
    /// The server ends the watch: code and message.
    Error(Refusal),
}

/// `Status` of the API.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) message: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Details {
    pub(super) retry_after_seconds: u64,
}

pub(super) fn page(kind: Kind, text: &[u8]) -> Result<Page> {
    match kind {
        Kind::Pods => page_of::<WirePod>(text, WirePod::object),
        Kind::Services => page_of::<WireService>(text, WireService::object),
        Kind::EndpointSlices => page_of::<WireSlice>(text, WireSlice::object),
        Kind::Nodes => page_of::<WireNode>(text, WireNode::object),
        Kind::ReplicaSets => page_of::<WireOwned>(text, WireOwned::replica_set),
        Kind::Jobs => page_of::<WireOwned>(text, WireOwned::job),
    }
}

pub(super) fn change(kind: Kind, line: &[u8]) -> Result<Change> {
    match kind {
        Kind::Pods => change_of::<WirePod>(line, WirePod::object),
        Kind::Services => change_of::<WireService>(line, WireService::object),
        Kind::EndpointSlices => change_of::<WireSlice>(line, WireSlice::object),
        Kind::Nodes => change_of::<WireNode>(line, WireNode::object),
        Kind::ReplicaSets => change_of::<WireOwned>(line, WireOwned::replica_set),
        Kind::Jobs => change_of::<WireOwned>(line, WireOwned::job),
    }
}

fn page_of<T: for<'a> Deserialize<'a>>(text: &[u8], object: fn(T) -> Object) -> Result<Page> {
    let list: List<T> = serde_json::from_slice(text).context("read a list")?;
    let next = Some(list.metadata.next).filter(|next| !next.is_empty());
    let objects = list.items.into_iter().map(object).collect();
    Ok(Page { objects, version: list.metadata.resource_version, next })
}

fn change_of<T: HasVersion + for<'a> Deserialize<'a>>(line: &[u8], object: fn(T) -> Object) -> Result<Change> {
    let mut event: Event<T> = match serde_json::from_slice(line) {
        Ok(event) => event,
        Err(error) => match serde_json::from_slice::<Event<Refusal>>(line) {
            Ok(event) if event.happened == Happened::Error => return Ok(Change::Error(event.object)),
            _ => return Err(error).context("read a line of a watch"),
        },
    };
    let version = event.object.version();
    Ok(match event.happened {
        Happened::Added | Happened::Modified => Change::Applied(object(event.object), version),
        Happened::Deleted => Change::Deleted(object(event.object), version),
        Happened::Bookmark => Change::Bookmark(version),
        Happened::Error => {
            let event: Event<Refusal> = serde_json::from_slice(line).context("read the error of a watch")?;
            Change::Error(event.object)
        }
    })
}

#[derive(Deserialize)]
#[serde(bound = "T: for<'a> Deserialize<'a>")]
struct List<T> {
    metadata: ListMeta,
    #[serde(deserialize_with = "or_default", default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Event<T> {
    #[serde(rename = "type")]
    happened: Happened,
    object: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Happened {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

trait HasVersion {
    fn version(&mut self) -> String;
}

macro_rules! has_version {
    ($($kind:ty),*) => {$(
        impl HasVersion for $kind {
            fn version(&mut self) -> String {
                std::mem::take(&mut self.metadata.resource_version)
            }
        }
    )*};
}

has_version!(WirePod, WireService, WireSlice, WireNode, WireOwned);

/// `null` is what Go makes of a list without items.
fn or_default<'a, D: Deserializer<'a>, T: Default + Deserialize<'a>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

macro_rules! wire {
    ($($(#[$about:meta])* $name:ident { $($(#[$how:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct $name {
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
    /// Addresses that networks of pods give nodes.
    Annotations {
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

/// Texts that are addresses, each once.
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

    fn replica_set(self) -> Object {
        Object::ReplicaSet(self.owned())
    }

    fn job(self) -> Object {
        Object::Job(self.owned())
    }
}

impl WirePod {
    fn object(self) -> Object {
        let WirePod { metadata, spec, status } = self;
        // A Deployment's ReplicaSet has the hash that its pods are labelled with at the end of its name.
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
            // In the node's network the two are the same, and one may be left out.
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
        Object::Pod(Pod {
            uid: Uid::of(&metadata.uid),
            owner,
            host_network: spec.host_network,
            finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            ips: addresses(status.pod_ips.iter().map(|ip| &ip.ip).chain([&status.pod_ip])),
            host_ips: addresses(status.host_ips.iter().map(|ip| &ip.ip).chain([&status.host_ip])),
            host_ports: host_ports.collect(),
            since: since.unwrap_or(0),
            node: spec.node_name.filter(|name| !name.is_empty()),
            namespace: metadata.namespace,
            name: metadata.name,
        })
    }
}

impl WireService {
    fn object(self) -> Object {
        let WireService { metadata, spec, status } = self;
        let balanced = status.load_balancer.ingress.iter().map(|ingress| &ingress.ip);
        // "None" is no address.
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
    fn object(self) -> Object {
        let WireSlice { metadata, endpoints, ports } = self;
        let target = |endpoint: WireEndpoint| Target {
            ips: addresses(&endpoint.addresses),
            pod: Some(endpoint.target_ref.name).filter(|_| endpoint.target_ref.kind == "Pod"),
        };
        // Without a service it is nobody's.
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
    fn object(self) -> Object {
        let WireNode { metadata, spec, status } = self;
        let networks = spec.pod_cidrs.iter().chain([&spec.pod_cidr]);
        let mut pod_networks: Vec<IpNet> = networks.filter_map(|text| text.parse().ok()).collect();
        pod_networks.sort_unstable();
        pod_networks.dedup();
        let noted = &metadata.annotations;
        let tunnels = [&noted.calico_ipip, &noted.calico_vxlan, &noted.calico_vxlan6, &noted.cilium, &noted.cilium6];
        let mut ips = addresses(status.addresses.iter().map(|address| &address.address).chain(tunnels));
        // The first address of the network: flannel's end of its tunnel.
        ips.extend(pod_networks.iter().map(IpNet::network));
        ips.sort_unstable();
        ips.dedup();
        let zone = metadata.labels.zone.filter(|zone| !zone.is_empty());
        Object::Node(Node { name: metadata.name, zone, ips, pod_networks })
    }
}
