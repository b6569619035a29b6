//! Two nodes, each in its zone, with pods behind a bridge and an agent of its own; a service; the API server that knows
//! all of them.
//!
//! ```text
//! node-a (eu-1a, 10.8.0.1)                         node-b (eu-1b, 10.8.0.2)
//!   up0 ────────────────────────────────────────────── up0
//!   cni0 10.71.1.1                                   cni0 10.71.2.1
//!    ├ frontend   10.71.1.10                          ├ api   10.71.2.10, which service front (10.96.0.1) means
//!    ├ cache      10.71.1.11                          ├ web   10.71.2.11
//!    └ prometheus 10.71.1.20                          ├ db    10.71.2.12
//!                                                     └ gone  10.71.2.13, which has no network
//! ```

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use serde_json::json;

use crate::live::binary::Program;
use crate::live::eventually;
use crate::live::metrics;
use crate::live::net::{End, connect, host};
use crate::live::traffic::plain_tcp;
use crate::names::clusters::{Template, sample};
use crate::support::apiserver::ApiServer;
use crate::support::netns::Netns;
use crate::support::sh;

/// The address of the service `front`.
pub const FRONT: &str = "10.96.0.1";
pub const API: &str = "10.71.2.10";
pub const WEB: &str = "10.71.2.11";
pub const DB: &str = "10.71.2.12";
pub const CACHE: &str = "10.71.1.11";
/// A pod that has no network: its node says that it is unreachable.
pub const GONE: &str = "10.71.2.13";

/// Ports of the service, which are those of the pod.
pub const PORTS: [u16; 3] = [80, 8080, 8081];

/// A node and its name.
pub struct Node {
    pub ns: Netns,
    pub name: &'static str,
    zone: &'static str,
    /// In addresses: 10.8.0.N, 10.71.N.0/24.
    number: u8,
}

impl Node {
    fn new(name: &'static str, zone: &'static str, number: u8) -> Node {
        Node { ns: host(name), name, zone, number }
    }

    /// Where its agent serves metrics.
    pub fn metrics(&self) -> SocketAddr {
        ([10, 8, 0, self.number], 9090).into()
    }

    fn set_up(&self, other: &Node) {
        let (own, others) = (self.number, other.number);
        let ports = PORTS.map(|port| port.to_string()).join(", ");
        self.ns.sh(&format!(
            "ip link add cni0 type bridge && ip link set cni0 up && ip addr add 10.71.{own}.1/24 dev cni0
             ip route add 10.71.{others}.0/24 via 10.8.0.{others}
             echo 1 >/proc/sys/net/ipv4/ip_forward && echo 0 >/proc/sys/net/ipv4/icmp_ratemask
             nft add table ip services
             nft \"add chain ip services pre {{ type nat hook prerouting priority -100; }}\"
             nft \"add rule ip services pre ip daddr {FRONT} tcp dport {{ {ports} }} dnat to {API}\""
        ));
    }

    /// A pod with this address, on the node's bridge.
    fn pod(&self, name: &str, address: &str) -> Netns {
        let pod = host(name);
        sh(&format!("ip -n {} link add v-{name} type veth peer name eth0 netns {}", self.ns.name, pod.name));
        self.ns.sh(&format!("ip link set v-{name} master cni0 up"));
        pod.sh(&format!(
            "ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via 10.71.{}.1",
            self.number
        ));
        plain_tcp(&pod);
        pod
    }
}

/// The nodes, the pods and the API server.
pub struct Cluster {
    pub a: Node,
    pub b: Node,
    pub frontend: Netns,
    pub cache: Netns,
    pub prometheus: Netns,
    pub api: Netns,
    pub web: Netns,
    pub db: Netns,
    server: ApiServer,
    folder: PathBuf,
}

impl Cluster {
    pub fn new() -> Cluster {
        let (a, b) = (Node::new("node-a", "eu-1a", 1), Node::new("node-b", "eu-1b", 2));
        connect(8, &End { ns: &a.ns, link: "up0", host: 1 }, &End { ns: &b.ns, link: "up0", host: 2 });
        a.set_up(&b);
        b.set_up(&a);
        // As kube-proxy refuses what has no backend. An unreachable route would answer once a second at most.
        b.ns.sh(&format!(
            "nft \"add chain ip services through {{ type filter hook forward priority 0; }}\"
             nft add rule ip services through ip daddr {GONE} reject with icmp type host-unreachable"
        ));
        let [frontend, cache, prometheus] =
            [("frontend", "10.71.1.10"), ("cache", CACHE), ("prometheus", "10.71.1.20")].map(|(n, ip)| a.pod(n, ip));
        let [api, web, db] = [("api", API), ("web", WEB), ("db", DB)].map(|(name, ip)| b.pod(name, ip));
        let server = ApiServer::on(a.ns.run(|| TcpListener::bind("10.8.0.1:6443").unwrap()));
        let folder = std::env::temp_dir().join(format!("netmon-e2e-{}", frontend.name));
        std::fs::create_dir(&folder).unwrap();
        let cluster = Cluster { a, b, frontend, cache, prometheus, api, web, db, server, folder };
        cluster.announce();
        cluster
    }

    /// Tells the API server what there is.
    fn announce(&self) {
        for Node { name, zone, number, .. } in [&self.a, &self.b] {
            let mut node = sample("Node", "node-b");
            node["metadata"]["name"] = json!(name);
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(zone);
            node["spec"]["podCIDR"] = json!(format!("10.71.{number}.0/24"));
            node["spec"]["podCIDRs"] = json!([format!("10.71.{number}.0/24")]);
            node["status"]["addresses"] = json!([{ "type": "InternalIP", "address": format!("10.8.0.{number}") }]);
            self.server.set(node);
        }
        let template = Template::default();
        let pods = [
            ("shop", "frontend", "node-a", "10.71.1.10"),
            ("shop", "cache", "node-a", CACHE),
            ("monitoring", "prometheus", "node-a", "10.71.1.20"),
            ("shop", "api", "node-b", API),
            ("shop", "web", "node-b", WEB),
            ("shop", "db", "node-b", DB),
            ("shop", "gone", "node-b", GONE),
        ];
        self.server.set_all(pods.iter().enumerate().map(|(index, (namespace, workload, node, ip))| {
            let (owner, uid) = (format!("{workload}-7f9c"), format!("aaaaaaaa-0000-4000-8000-{index:012x}"));
            template.pod(&format!("{owner}-x1"), namespace, node, ip, (&owner, &uid))
        }));
        let ports = PORTS.map(|port| json!({ "name": format!("p{port}"), "port": port, "protocol": "TCP" }));
        self.server.set_all([
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "front", "namespace": "shop" },
                "spec": { "type": "ClusterIP", "clusterIP": FRONT, "clusterIPs": [FRONT], "ports": ports },
            }),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": { "name": "front-x", "namespace": "shop", "labels": { "kubernetes.io/service-name": "front" } },
                "ports": ports,
                "endpoints": [{ "addresses": [API], "conditions": { "ready": true }, "nodeName": "node-b",
                    "targetRef": { "kind": "Pod", "namespace": "shop", "name": "api-7f9c-x1" } }],
            }),
        ]);
    }

    /// The configuration file of a node's agent.
    pub fn config(&self, node: &Node) -> PathBuf {
        self.folder.join(format!("{}.yaml", node.name))
    }

    /// Starts the agent of a node: the program, with a configuration as for a cluster with zones.
    pub fn agent(&self, node: &Node) -> Program {
        let config = self.config(node);
        let text = format!(
            "kubernetes: {{ enabled: on, kubeconfig: {} }}
flow: {{ connect_timeout: {}s }}
features: {{ security_monitoring: {{ enabled: true }} }}
export:
  prometheus:
    labels: [src_ip, src_namespace, src_workload, dst_ip, dst_namespace, dst_workload, dst_service, src_zone, dst_zone]
",
            self.server.kubeconfig().display(),
            super::CONNECT.as_secs(),
        );
        std::fs::write(&config, text).unwrap();
        let socket = self.folder.join(format!("{}.sock", node.name));
        let [config, socket] = [config, socket].map(|path| path.to_str().unwrap().to_owned());
        let address = node.metrics().to_string();
        let arguments =
            ["--config", &config, "--node-name", node.name, "--metrics-addr", &address, "--socket", &socket];
        let mut program = Program::start(&node.ns, &arguments, false);
        program.wait_for("ready");
        eventually("the agent has read the cluster's names", || {
            metrics::get(&node.ns, node.metrics(), "/readyz").head.contains(" 200 ").then_some(())
        });
        program
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
