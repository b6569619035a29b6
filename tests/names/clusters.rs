//! Clusters for tests: a small one as printed by `kubectl get -o json`, and large ones built from its objects.

use serde_json::{Value, json};

use crate::support::apiserver::ApiServer;

/// Realistic objects of all kinds.
pub fn small() -> Vec<Value> {
    let list: Value = serde_json::from_str(include_str!("fixtures/cluster.json")).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// One of these objects.
pub fn sample(kind: &str, name: &str) -> Value {
    let is_it =
        |object: &Value| object["kind"] == kind && object["metadata"]["name"].as_str().unwrap().starts_with(name);
    small().into_iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

pub fn with_small() -> ApiServer {
    let server = ApiServer::start();
    server.set_all(small());
    server
}

/// A pod like that of the web shop, with another name and address.
pub fn pod(name: &str, node: &str, ip: &str) -> Value {
    Template::default().pod(name, "shop", node, ip, ("web-6c5d9b7f4d", "5b9e2329-3c1b-4d52-9a07-5f0c7d212329"))
}

/// Builds objects from samples, quickly.
pub struct Template {
    pod: Value,
    service: Value,
    slice: Value,
    node: Value,
    replica_set: Value,
}

impl Default for Template {
    fn default() -> Template {
        Template {
            pod: sample("Pod", "web-"),
            service: sample("Service", "web"),
            slice: sample("EndpointSlice", "web-"),
            node: sample("Node", "node-b"),
            replica_set: sample("ReplicaSet", "web-"),
        }
    }
}

fn named(sample: &Value, namespace: &str, name: &str) -> Value {
    let mut object = sample.clone();
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("uid");
    metadata.insert("name".to_owned(), json!(name));
    if metadata.contains_key("namespace") {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    object
}

/// A UUID derived from a number.
pub fn uid(number: usize) -> String {
    format!("aaaaaaaa-0000-4000-8000-{number:012x}")
}

/// Pods of each service in the large cluster.
pub const REPLICAS: usize = 5;
/// Pods of each node.
const PODS_OF_A_NODE: usize = 100;

impl Template {
    pub fn pod(&self, name: &str, namespace: &str, node: &str, ip: &str, owner: (&str, &str)) -> Value {
        let mut pod = named(&self.pod, namespace, name);
        pod["metadata"]["ownerReferences"][0]["name"] = json!(owner.0);
        pod["metadata"]["ownerReferences"][0]["uid"] = json!(owner.1);
        pod["metadata"]["labels"]["pod-template-hash"] = json!(owner.0.rsplit('-').next());
        pod["spec"]["nodeName"] = json!(node);
        pod["status"]["podIP"] = json!(ip);
        pod["status"]["podIPs"] = json!([{ "ip": ip }]);
        pod
    }

    /// The address of the pod with this number.
    pub fn address(number: usize) -> String {
        let (node, pod) = (number / PODS_OF_A_NODE, number % PODS_OF_A_NODE + 10);
        format!("10.{}.{}.{pod}", 128 + node / 256, node % 256)
    }

    /// The pod with this number, in its `generation`-th incarnation.
    pub fn numbered_pod(&self, number: usize, generation: usize) -> Value {
        let service = number / REPLICAS;
        let owner = format!("app-{service}-7f9c{generation:04x}");
        let (name, node) =
            (format!("{owner}-{:05x}", number % REPLICAS), format!("worker-{}", number / PODS_OF_A_NODE));
        self.pod(&name, "apps", &node, &Self::address(number), (&owner, &uid(10_000_000 * generation + service)))
    }

    pub fn numbered_slice(&self, service: usize, generation: usize) -> Value {
        let mut slice = named(&self.slice, "apps", &format!("app-{service}-x"));
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(format!("app-{service}"));
        let endpoint = |number: usize| {
            let name = format!("app-{service}-7f9c{generation:04x}-{:05x}", number % REPLICAS);
            let mut endpoint = self.slice["endpoints"][0].clone();
            endpoint["addresses"] = json!([Self::address(number)]);
            endpoint["targetRef"]["name"] = json!(name);
            endpoint["targetRef"]["namespace"] = json!("apps");
            endpoint
        };
        slice["endpoints"] = (service * REPLICAS..(service + 1) * REPLICAS).map(endpoint).collect();
        slice
    }

    pub fn numbered_replica_set(&self, service: usize, generation: usize) -> Value {
        let name = format!("app-{service}-7f9c{generation:04x}");
        let mut set = named(&self.replica_set, "apps", &name);
        set["metadata"]["uid"] = json!(uid(10_000_000 * generation + service));
        set["metadata"]["ownerReferences"][0]["name"] = json!(format!("app-{service}"));
        set
    }

    fn numbered_service(&self, service: usize) -> Value {
        let mut object = named(&self.service, "apps", &format!("app-{service}"));
        let ip = format!("172.{}.{}.{}", 16 + service / 65_536, service / 256 % 256, service % 256);
        object["spec"] = json!({
            "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "type": "ClusterIP",
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http" }],
            "selector": { "app": format!("app-{service}") }, "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        });
        object["status"] = json!({ "loadBalancer": {} });
        object
    }

    fn numbered_node(&self, number: usize) -> Value {
        let mut node = named(&self.node, "", &format!("worker-{number}"));
        let network = format!("10.{}.{}.0/24", 128 + number / 256, number % 256);
        node["spec"]["podCIDR"] = json!(network);
        node["spec"]["podCIDRs"] = json!([network]);
        node["status"]["addresses"] =
            json!([{ "address": format!("192.168.{}.{}", number / 250, number % 250 + 1), "type": "InternalIP" }]);
        node
    }

    /// This many pods in services of five, each with a Deployment; nodes with a hundred pods each.
    pub fn large(&self, pods: usize) -> impl Iterator<Item = Value> + '_ {
        let services = pods / REPLICAS;
        let of_services = (0..services).flat_map(|service| {
            [self.numbered_service(service), self.numbered_slice(service, 0), self.numbered_replica_set(service, 0)]
        });
        let nodes = (0..pods.div_ceil(PODS_OF_A_NODE)).map(|node| self.numbered_node(node));
        nodes.chain(of_services).chain((0..pods).map(|number| self.numbered_pod(number, 0)))
    }
}
