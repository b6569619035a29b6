//! A small cluster for tests.

use std::net::IpAddr;

use super::objects::{HostPort, Node, Owned, Owner, Pod, Service, ServicePort, Slice, Target, Uid};
use super::{Answer, Cluster, End, Index, NamedNetwork, Object, Store, UnixNs};

pub(super) const S: UnixNs = 1_000_000_000;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// All objects here exist from this time on.
pub(super) const THEN: u64 = 1000;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn end(text: &str) -> End {
    let address: std::net::SocketAddr = text.parse().unwrap();
    End { ip: address.ip(), port: address.port() }
}

pub(super) fn pod(name: &str, node: &str, ips: &[&str]) -> Pod {
    Pod {
        uid: Uid::of(name),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        node: Some(node.to_owned()),
        ips: ips.iter().map(|text| ip(text)).collect(),
        since: THEN * S,
        ..Pod::default()
    }
}

pub(super) fn host_pod(name: &str, node: &str, node_ip: &str, ports: &[u16]) -> Pod {
    let at = |&port: &u16| HostPort { ip: None, protocol: TCP, port };
    let host_ports = ports.iter().map(at).collect();
    Pod { host_network: true, host_ports, ..pod(name, node, &[node_ip]) }
}

pub(super) fn owned_by(pod: Pod, kind: &str, name: &str) -> Pod {
    let owner = Owner { kind: kind.to_owned(), name: name.to_owned(), uid: Uid::of(name), deployment: None };
    Pod { owner: Some(owner), ..pod }
}

pub(super) fn owner(name: &str, owner: Option<(&str, &str)>) -> Owned {
    let owner = owner.map(|(kind, name)| (kind.to_owned(), name.to_owned()));
    Owned { uid: Uid::of(name), owner }
}

pub(super) fn service(name: &str, ips: &[&str], ports: &[(u16, Option<u16>)]) -> Service {
    let port = |&(port, node_port): &(u16, Option<u16>)| ServicePort { protocol: TCP, port, node_port };
    Service {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        ips: ips.iter().map(|text| ip(text)).collect(),
        ports: ports.iter().map(port).collect(),
    }
}

pub(super) fn slice(name: &str, service: &str, ports: &[u16], targets: &[(&str, Option<&str>)]) -> Slice {
    let target =
        |&(address, pod): &(&str, Option<&str>)| Target { ips: vec![ip(address)], pod: pod.map(str::to_owned) };
    Slice {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        service: service.to_owned(),
        ports: ports.iter().map(|&port| (TCP, port)).collect(),
        targets: targets.iter().map(target).collect(),
    }
}

pub(super) fn node(name: &str, zone: &str, ips: &[&str], pods: &[&str]) -> Node {
    Node {
        name: name.to_owned(),
        zone: Some(zone.to_owned()),
        ips: ips.iter().map(|text| ip(text)).collect(),
        pod_networks: pods.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

pub(super) fn networks() -> Vec<NamedNetwork> {
    [("10.0.0.0/8", "corp"), ("10.9.0.0/16", "lab"), ("203.0.113.0/24", "partner")]
        .map(|(network, name)| NamedNetwork { network: network.parse().unwrap(), name: name.to_owned() })
        .to_vec()
}

pub(super) fn store(cluster: Cluster) -> Store {
    let mut store = Store::new(Index::new(&networks(), Cluster::Partial, "node-a"));
    store.set_cluster(cluster);
    store
}

/// Two nodes; a web shop on both, its database, and daemons in the nodes' network namespace.
pub(super) fn shop() -> Vec<Object> {
    let web_a = owned_by(pod("web-a", "node-a", &["10.244.1.10", "fd00:1::10"]), "ReplicaSet", "web-5d8f");
    let web_b = owned_by(pod("web-b", "node-b", &["10.244.2.10"]), "ReplicaSet", "web-5d8f");
    let db = owned_by(pod("db-0", "node-b", &["10.244.2.20"]), "StatefulSet", "db");
    let exporter = owned_by(host_pod("exporter-x", "node-a", "192.168.7.1", &[9100]), "DaemonSet", "exporter");
    let proxy = owned_by(host_pod("proxy-x", "node-a", "192.168.7.1", &[]), "DaemonSet", "proxy");
    vec![
        Object::Node(node("node-a", "z1", &["192.168.7.1", "fd00:7::1"], &["10.244.1.0/24", "fd00:1::/64"])),
        Object::Node(node("node-b", "z2", &["192.168.7.2", "198.51.100.2"], &["10.244.2.0/24"])),
        Object::ReplicaSet(owner("web-5d8f", Some(("Deployment", "web")))),
        Object::Pod(web_a),
        Object::Pod(web_b),
        Object::Pod(db),
        Object::Pod(exporter),
        Object::Pod(proxy),
        Object::Service(service("web", &["10.96.0.10", "198.51.100.80"], &[(80, Some(30080))])),
        Object::Service(service("db", &["10.96.0.20"], &[(5432, None)])),
        Object::Service(service("proxy", &[], &[(7070, None)])),
        Object::Slice(slice(
            "web-1",
            "web",
            &[8080],
            &[("10.244.1.10", Some("web-a")), ("10.244.2.10", Some("web-b")), ("192.0.2.1", None)],
        )),
        Object::Slice(slice("web-2", "web", &[8080], &[("fd00:1::10", Some("web-a"))])),
        Object::Slice(slice("db-1", "db", &[5432], &[("10.244.2.20", Some("db-0"))])),
        Object::Slice(slice("proxy-1", "proxy", &[7070], &[("192.168.7.1", Some("proxy-x"))])),
    ]
}

pub(super) fn with_shop(cluster: Cluster) -> Store {
    let mut store = store(cluster);
    for object in shop() {
        store.apply(&object, 2 * THEN * S);
    }
    store
}

/// Formats an answer as `namespace/pod workload-kind/workload @node(zone) service ~name`, as far as these are known, after its
/// kind.
pub(super) fn describe(answer: &Answer) -> String {
    let kind = match answer {
        Answer::Known(_) => "",
        Answer::NotYet(_) => "not yet",
        Answer::External(_) => "external",
    };
    let mut words = vec![kind.to_owned()];
    if let Some(party) = answer.party() {
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or("").to_owned();
        let part = |prefix: &str, value: &Option<std::sync::Arc<str>>| {
            value.as_ref().map_or(String::new(), |value| format!("{prefix}{value}"))
        };
        if party.namespace.is_some() {
            words.push(format!("{}/{}", text(&party.namespace), text(&party.pod)));
        }
        if party.workload.is_some() {
            words.push(format!("{}/{}", text(&party.workload_kind), text(&party.workload)));
        }
        if party.node.is_some() {
            words.push(format!("@{}({})", text(&party.node), text(&party.zone)));
        }
        words.push(part("svc=", &party.service));
        words.push(part("~", &party.name));
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}
