//! Real traffic between pods that a cluster knows: the names of the ends, in flows and in metrics.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::SystemTime;

use netmon::config::{ChosenLabels, Config};
use netmon::flow::Flow;
use netmon::names::Enabled;
use serde_json::{Value, json};

use super::agent::{Agent, watching};
use super::eventually;
use super::metrics::Page;
use super::nat::node::{Node, Tool};
use super::traffic::{Connection, ETH, flow_of, listen, transfer_to};
use crate::names::clusters::{Template, sample};
use crate::needs_root;
use crate::support::apiserver::ApiServer;

const CLIENT: &str = "10.6.0.10";
const API: &str = "10.6.0.11";

/// A node with pods, a host beside it, and the API server that knows them.
struct Cluster {
    net: Node,
    server: ApiServer,
    template: Template,
}

impl Cluster {
    /// Deployment `api` answers for the service `front` on this node, `db` for `data` on another node; the client is
    /// not known yet.
    fn new() -> Cluster {
        let net = Node::new();
        net.translate(Tool::Nft);
        let server = ApiServer::on(net.node.run(|| TcpListener::bind("127.0.0.1:0").unwrap()));
        let cluster = Cluster { net, server, template: Template::default() };
        for (name, ip, pods) in [("node-a", "10.8.0.1", "10.6.0.0/24"), ("node-b", "10.8.0.3", "10.8.0.0/24")] {
            let mut node = sample("Node", "node-b");
            node["metadata"]["name"] = json!(name);
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(format!("zone-of-{name}"));
            node["spec"]["podCIDR"] = json!(pods);
            node["spec"]["podCIDRs"] = json!([pods]);
            node["status"]["addresses"] = json!([{ "type": "InternalIP", "address": ip }]);
            cluster.server.set(node);
        }
        for (service, address, workload, node, ip) in
            [("front", "10.96.0.1", "api", "node-a", API), ("data", "10.96.0.2", "db", "node-b", "10.8.0.2")]
        {
            let pod = cluster.pod(workload, node, ip);
            let reference = json!({ "kind": "Pod", "namespace": "shop", "name": pod["metadata"]["name"] });
            cluster.server.set_all([
                pod,
                json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": { "name": service, "namespace": "shop" },
                    "spec": { "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                        "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }] },
                }),
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": { "name": format!("{service}-x"), "namespace": "shop",
                        "labels": { "kubernetes.io/service-name": service } },
                    "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
                    "endpoints": [{ "addresses": [ip], "conditions": { "ready": true }, "nodeName": node, "targetRef": reference }],
                }),
            ]);
        }
        cluster
    }

    /// A pod of the Deployment with this name.
    fn pod(&self, workload: &str, node: &str, ip: &str) -> Value {
        let (owner, uid) = (format!("{workload}-7f9c"), format!("aaaaaaaa-0000-4000-8000-{:012x}", workload.len()));
        self.template.pod(&format!("{owner}-x1"), "shop", node, ip, (&owner, &uid))
    }

    fn agent(&self, config: Config) -> Agent {
        let agent = Agent::start(
            &self.net.node,
            Config {
                kubernetes: Enabled::On,
                kubeconfig: Some(self.server.kubeconfig()),
                node_name: "node-a".to_owned(),
                ..config
            },
        );
        eventually("the names of the cluster were read", || {
            Page::get(&self.net.node, &agent, "/readyz").head.contains("200").then_some(())
        });
        agent
    }

    fn page(&self, agent: &Agent) -> Page {
        Page::get(&self.net.node, agent, "/metrics")
    }

    fn settled(&self, agent: &Agent) -> Page {
        Page::settled(&self.net.node, agent)
    }

    fn client_dials(&self, to: &str, listens: (&crate::support::netns::Netns, &str)) -> Connection {
        let listener = listen(listens.0, listens.1.parse().unwrap());
        transfer_to(&self.net.routed[0], listener, to.parse().unwrap(), 1, 200_000)[0]
    }
}

fn names(flow: &Flow) -> [Vec<String>; 2] {
    [flow.client_party(), flow.server_party()].map(|party| {
        let party = party.unwrap_or_else(|| panic!("no names: {flow:#?}"));
        let all = [&party.namespace, &party.workload, &party.workload_kind, &party.node, &party.zone, &party.service];
        all.into_iter().map(|name| name.as_deref().unwrap_or("-").to_owned()).collect()
    })
}

#[test]
fn clients_and_services_have_names() {
    needs_root!();
    let cluster = Cluster::new();
    cluster.server.set(cluster.pod("client", "node-a", CLIENT));
    let agent = cluster.agent(watching(&[]));
    let local = cluster.client_dials("10.96.0.1:80", (&cluster.net.routed[1], "10.6.0.11:8080"));
    let remote = cluster.client_dials("10.96.0.2:80", (&cluster.net.outside, "10.8.0.2:8080"));
    let flows = agent.settled();
    let named = names(flow_of(&flows, 6, local.client, "10.96.0.1:80".parse().unwrap()));
    let client = ["shop", "client", "Deployment", "node-a", "zone-of-node-a", "-"].map(str::to_owned).to_vec();
    let api = ["shop", "api", "Deployment", "node-a", "zone-of-node-a", "front"].map(str::to_owned).to_vec();
    assert_eq!(named, [client.clone(), api]);
    let named = names(flow_of(&flows, 6, remote.client, "10.96.0.2:80".parse().unwrap()));
    let db = ["shop", "db", "Deployment", "node-b", "zone-of-node-b", "data"].map(str::to_owned).to_vec();
    assert_eq!(named, [client, db]);
    let page = cluster.settled(&agent);
    page.assert_well_formed();
    for (connection, workload, service) in [(&local, "api", "front"), (&remote, "db", "data")] {
        let (workload, service) = (format!("\"{workload}\""), format!("dst_service=\"{service}\""));
        let [to, from] = ["dst", "src"].map(|end| format!("{end}_workload={workload}"));
        let asked = ["src_workload=\"client\"", "src_namespace=\"shop\"", &to, "dst_namespace=\"shop\"", &service];
        assert_eq!(page.sum("netmon_bytes_total", &asked), connection.client_on_wire(ETH).bytes as f64);
        assert_eq!(page.sum("netmon_packets_total", &asked), connection.client_on_wire(ETH).packets as f64);
        let answered = [from.as_str(), "dst_workload=\"client\""];
        assert_eq!(page.sum("netmon_bytes_total", &answered), connection.server_on_wire(ETH).bytes as f64);
        let pair = ["src_workload=\"client\"", &to, "dst_namespace=\"shop\"", &service];
        assert_eq!(page.sum("netmon_latency_seconds_count", &pair), 1.0, "{}", page.body);
    }
    assert!(agent.stop().0.conservation().holds());
}

#[test]
fn labels_of_pods_are_labels_of_metrics() {
    needs_root!();
    let cluster = Cluster::new();
    let mut client = cluster.pod("client", "node-a", CLIENT);
    client["metadata"]["labels"]["team"] = json!("red");
    let labels = json!({ "team": "blue", "app.kubernetes.io/part-of": "store" });
    cluster.server.set_all([client, json!({ "kind": "Namespace", "metadata": { "name": "shop", "labels": labels } })]);
    let chosen = ["team", "app.kubernetes.io/part-of"].map(str::to_owned);
    let config = Config { chosen: ChosenLabels::new(&chosen).unwrap(), ..watching(&[]) };
    let agent = cluster.agent(config);
    let connection = cluster.client_dials("10.96.0.1:80", (&cluster.net.routed[1], "10.6.0.11:8080"));
    cluster.settled(&agent).assert_well_formed();
    let pair = [
        "src_label_team=\"red\"",
        "src_label_app_kubernetes_io_part_of=\"store\"",
        "dst_label_team=\"blue\"",
        "dst_label_app_kubernetes_io_part_of=\"store\"",
        "dst_workload=\"api\"",
    ];
    let page = eventually("the outcome is counted", || {
        Some(cluster.page(&agent)).filter(|page| page.sum("netmon_flows_total", &pair) == 1.0)
    });
    assert_eq!(page.sum("netmon_bytes_total", &pair), connection.client_on_wire(ETH).bytes as f64, "{}", page.body);
    assert_eq!(page.sum("netmon_latency_seconds_count", &pair), 1.0, "{}", page.body);
    let answers = ["src_label_team=\"blue\"", "dst_label_team=\"red\""];
    assert_eq!(page.sum("netmon_bytes_total", &answers), connection.server_on_wire(ETH).bytes as f64);
    assert!(agent.stop().0.conservation().holds());
}

#[test]
fn a_pod_that_is_known_late_has_all_its_bytes() {
    needs_root!();
    let cluster = Cluster::new();
    let agent = cluster.agent(watching(&[]));
    let made = cluster.client_dials("10.96.0.1:80", (&cluster.net.routed[1], "10.6.0.11:8080"));
    agent.settled();
    cluster.server.set(cluster.pod("client", "node-a", CLIENT));
    let page = eventually("the flow has the name of its client", || {
        let page = cluster.page(&agent);
        (page.sum("netmon_packets_total", &["src_workload=\"client\""]) > 0.0).then_some(page)
    });
    let [sent, answered] =
        ["src", "dst"].map(|end| page.sum("netmon_bytes_total", &[&format!("{end}_workload=\"client\"")]));
    assert_eq!(sent, made.client_on_wire(ETH).bytes as f64, "{}", page.body);
    assert_eq!(answered, made.server_on_wire(ETH).bytes as f64);
    let by_address = page.sum("netmon_bytes_total", &[CLIENT]);
    assert_eq!(by_address, sent + answered, "none of it is without a name");
    assert_eq!(page.sum("netmon_latency_seconds_count", &["src_workload=\"client\""]), 1.0);
    assert_eq!(page.sum("netmon_names_missed_total", &[]), 0.0);
}

#[test]
fn an_address_has_the_name_of_its_current_pod() {
    needs_root!();
    let cluster = Cluster::new();
    let old = cluster.pod("old", "node-a", CLIENT);
    cluster.server.set(old.clone());
    let agent = cluster.agent(watching(&[]));
    let backend = (&cluster.net.routed[1], "10.6.0.11:8080");
    let before = cluster.client_dials("10.96.0.1:80", backend);
    agent.settled();
    cluster.server.delete("pods", "shop", old["metadata"]["name"].as_str().unwrap());
    let mut new = cluster.pod("newer", "node-a", CLIENT);
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    new["metadata"]["creationTimestamp"] = json!(now);
    new["status"]["startTime"] = json!(now);
    cluster.server.set(new);
    // The start of a pod is known to the second.
    let started = SystemTime::now();
    eventually("the next second has begun", || (started.elapsed().unwrap().as_millis() > 1000).then_some(()));
    let after = cluster.client_dials("10.96.0.1:80", backend);
    let bytes_of = |page: &Page, workload: &str| {
        page.sum("netmon_bytes_total", &[&format!("src_workload=\"{workload}\""), "dst_workload=\"api\""])
    };
    let page = eventually("the new pod's bytes have its name", || {
        agent.settled();
        let page = cluster.page(&agent);
        (bytes_of(&page, "newer") > 0.0).then_some(page)
    });
    assert_eq!(bytes_of(&page, "newer"), after.client_on_wire(ETH).bytes as f64);
    assert_eq!(bytes_of(&page, "old"), before.client_on_wire(ETH).bytes as f64);
}

#[test]
fn pods_in_the_nodes_network_and_hosts_outside() {
    needs_root!();
    let cluster = Cluster::new();
    cluster.server.set(cluster.pod("client", "node-a", CLIENT));
    let mut exporter = cluster.pod("exporter", "node-a", "10.8.0.1");
    exporter["spec"]["hostNetwork"] = json!(true);
    exporter["status"]["hostIP"] = json!("10.8.0.1");
    exporter["spec"]["containers"][0]["ports"] =
        json!([{ "containerPort": 9100, "hostPort": 9100, "protocol": "TCP" }]);
    cluster.server.set(exporter);
    cluster.net.outside.sh("ip addr add 198.51.100.7/32 dev up0 && ip route add 10.6.0.0/24 via 10.8.0.1");
    let agent = cluster.agent(watching(&[]));
    let node = &cluster.net.node;
    let to_pod = cluster.client_dials("10.8.0.1:9100", (node, "10.8.0.1:9100"));
    let to_node = cluster.client_dials("10.8.0.1:9200", (node, "10.8.0.1:9200"));
    let away = cluster.client_dials("198.51.100.7:443", (&cluster.net.outside, "198.51.100.7:443"));
    let page = cluster.settled(&agent);
    for (connection, to) in [(&to_pod, "exporter"), (&to_node, "node-a"), (&away, "external")] {
        let labels = ["src_workload=\"client\"", &format!("dst_workload=\"{to}\"")];
        assert_eq!(page.sum("netmon_bytes_total", &labels), connection.client_on_wire(ETH).bytes as f64, "{to}");
    }
    assert_eq!(page.sum("netmon_bytes_total", &["198.51.100.7"]), 0.0, "hosts outside are grouped");
    // Thousands of ports do not become labels, and neither do ports without a server.
    let series = |page: &Page| page.sum("netmon_series", &[]);
    let before = series(&page);
    cluster.net.outside.run(|| {
        let target: IpAddr = CLIENT.parse().unwrap();
        let from_outside = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        from_outside.bind(&SocketAddr::from(([198, 51, 100, 7], 0)).into()).unwrap();
        (1..=20_000).for_each(|port| drop(from_outside.send_to(b"?", &SocketAddr::new(target, port).into())));
    });
    let page = eventually("the scan is counted", || {
        agent.settled();
        let page = cluster.page(&agent);
        let scanned = page.sum("netmon_packets_total", &["src_ip=\"external\"", "protocol=\"udp\""]);
        (scanned >= 20_000.0).then_some(page)
    });
    assert!(series(&page) - before < 40.0, "{}", page.body);
    assert!(agent.stop().0.conservation().holds());
}
