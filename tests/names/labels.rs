//! Labels of pods and namespaces that are chosen to be labels of metrics.

use netmon::names::State;
use serde_json::json;

use super::clusters::{Template, small};
use super::*;
use crate::support::apiserver::Streaming;

fn chosen(server: &ApiServer) -> NamesOptions {
    let labels = ["team", "app.kubernetes.io/part-of"].map(str::to_owned).to_vec();
    NamesOptions { labels, ..options(server) }
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({ "kind": "Namespace", "metadata": { "name": name, "labels": labels }, "spec": { "finalizers": ["kubernetes"] } })
}

fn pod(name: &str, ip: &str, labels: Value) -> Value {
    let owner = ("web-5d", "aaaaaaaa-0000-4000-8000-000000000001");
    let mut pod = Template::default().pod(name, "shop", "node-a", ip, owner);
    pod["metadata"]["labels"] = labels;
    pod
}

/// The values of the chosen labels, `-` for one that is missing.
fn values(watched: &Watched, ip: &str) -> Vec<String> {
    let answer = watched.names.load().client(end(&format!("{ip}:1")), TCP, now());
    let labels = answer.party().and_then(|party| party.labels.clone());
    let values = labels.iter().flat_map(|labels| labels.iter());
    values.map(|value| value.as_deref().unwrap_or("-").to_owned()).collect()
}

fn become_values(watched: &Watched, ip: &str, wanted: &[&str]) {
    eventually(&format!("{ip} has {wanted:?}"), || (values(watched, ip) == wanted).then_some(()));
}

#[test]
fn labels_are_read_and_followed() {
    for streaming in [Streaming::Known, Streaming::Refused] {
        let server = ApiServer::start();
        server.set_streaming(streaming);
        server.set_all(small());
        server.set_all([
            namespace("shop", json!({ "app.kubernetes.io/part-of": "store", "kubernetes.io/metadata.name": "shop" })),
            pod("one", "10.6.1.1", json!({ "team": "red", "pod-template-hash": "5d", "other": "x" })),
            pod("two", "10.6.1.2", json!(null)),
        ]);
        let watched = Watched::synced(&chosen(&server));
        become_values(&watched, "10.6.1.1", &["red", "store"]);
        become_values(&watched, "10.6.1.2", &["-", "store"]);
        // They change while they are watched.
        server.set(namespace("shop", json!({ "team": "blue" })));
        become_values(&watched, "10.6.1.1", &["red", "-"]);
        become_values(&watched, "10.6.1.2", &["blue", "-"]);
        server.set(pod("two", "10.6.1.2", json!({ "team": "green", "app.kubernetes.io/part-of": "till" })));
        become_values(&watched, "10.6.1.2", &["green", "till"]);
        server.set(pod("three", "10.6.1.3", json!({})));
        become_values(&watched, "10.6.1.3", &["blue", "-"]);
        let asked = server.asked();
        let of_namespaces: Vec<_> = asked.iter().filter(|asked| asked.resource == "namespaces").collect();
        assert!(of_namespaces.iter().all(|asked| asked.accept.contains("PartialObjectMetadata")), "{of_namespaces:?}");
        assert!(watched.status().kinds.iter().any(|kind| kind.kind.name() == "namespaces" && kind.objects == 1));
    }
}

#[test]
fn namespaces_are_read_for_labels_alone() {
    let server = ApiServer::start();
    server.set_all(small());
    server.set_all([namespace("shop", json!({ "team": "red" })), pod("one", "10.6.1.1", json!({ "team": "red" }))]);
    let watched = Watched::synced(&options(&server));
    assert_eq!(values(&watched, "10.6.1.1"), [""; 0]);
    assert!(server.asked().iter().all(|asked| asked.resource != "namespaces"));
    assert!(watched.status().kinds.iter().all(|kind| kind.kind.name() != "namespaces"));
    let options = NamesOptions { scope: Scope::Node, ..chosen(&server) };
    let watched = Watched::synced(&options);
    become_values(&watched, "10.6.1.1", &["red", "-"]);
}

/// Names do not wait for them.
#[test]
fn namespaces_that_may_not_be_read() {
    let server = ApiServer::start();
    server.set_all(small());
    server.deny("namespaces", true);
    server.set_all([namespace("shop", json!({ "team": "red" })), pod("one", "10.6.1.1", json!({ "team": "blue" }))]);
    server.set(pod("two", "10.6.1.2", json!({})));
    let watched = Watched::synced(&chosen(&server));
    become_values(&watched, "10.6.1.1", &["blue", "-"]);
    let status = watched.status();
    let denied = status.denied.unwrap();
    assert!(!denied.is_serious() && denied.to_string().contains("may not read namespaces"), "{denied}");
    assert!(status.kinds.iter().any(|kind| kind.state == State::Denied));
    server.deny("namespaces", false);
    become_values(&watched, "10.6.1.2", &["red", "-"]);
}
