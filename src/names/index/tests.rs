//! Lookups in the index of a small cluster.

use std::sync::Arc;

use super::super::samples::{S, TCP, UDP, describe, end, networks, shop, store, with_shop};
use super::super::{Answer, Cluster, Index, Object};

const AT: u64 = 2_000 * S;

fn index() -> Index {
    with_shop(Cluster::Whole).changes().unwrap()
}

fn client(index: &Index, of: &str) -> String {
    describe(&index.client(end(of), TCP, AT))
}

fn server(index: &Index, of: &str) -> String {
    describe(&index.server(end(of), None, TCP, AT))
}

fn behind(index: &Index, dialled: &str, backend: &str) -> String {
    describe(&index.server(end(dialled), Some(end(backend)), TCP, AT))
}

const WEB_A: &str = "shop/web-a Deployment/web @node-a(z1)";
const DB: &str = "shop/db-0 StatefulSet/db @node-b(z2)";

#[test]
fn clients_are_pods_and_nodes() {
    let index = index();
    for (of, name) in [
        ("10.244.1.10:40000", WEB_A),
        ("[fd00:1::10]:40000", WEB_A),
        // As a client it gets no service, even from the port at which it serves.
        ("10.244.1.10:8080", WEB_A),
        ("192.168.7.2:40000", "@node-b(z2)"),
        ("198.51.100.2:40000", "@node-b(z2)"),
        ("[fd00:7::1]:40000", "@node-a(z1)"),
        ("192.168.7.1:40000", "@node-a(z1)"),
        ("192.168.7.1:9100", "shop/exporter-x DaemonSet/exporter @node-a(z1)"),
        // A service as client: the flow's roles were guessed wrong.
        ("10.96.0.10:80", "shop/ svc=web"),
    ] {
        assert_eq!(client(&index, of), name, "{of}");
    }
}

#[test]
fn a_dialled_service_is_named_with_the_pod_that_answers() {
    let index = index();
    let web = format!("{WEB_A} svc=web");
    for (dialled, backend, name) in [
        ("10.96.0.10:80", "10.244.1.10:8080", web.as_str()),
        // Load balancer; NodePort at any node.
        ("198.51.100.80:80", "10.244.1.10:8080", &web),
        ("192.168.7.2:30080", "10.244.1.10:8080", &web),
        ("192.168.7.1:30080", "[fd00:1::10]:8080", &web),
        // Not an endpoint of that port, or no longer.
        ("10.96.0.10:80", "10.244.1.10:9999", &web),
        ("10.96.0.10:80", "10.244.2.20:5432", "shop/db-0 StatefulSet/db @node-b(z2) svc=web"),
        ("10.96.0.10:80", "192.168.7.2:6443", "shop/ @node-b(z2) svc=web"),
        ("10.96.0.10:80", "10.244.1.99:8080", "not yet shop/ svc=web"),
        ("10.96.0.10:80", "192.0.2.1:8080", "shop/ svc=web"),
        // A translation not made for a service, into the cluster and out of it.
        ("192.168.7.1:8443", "10.244.1.10:8080", &web),
        ("203.0.113.9:443", "192.0.2.77:8443", "external ~partner"),
    ] {
        assert_eq!(behind(&index, dialled, backend), name, "{dialled} {backend}");
    }
}

#[test]
fn a_pod_dialled_directly_has_the_service_it_is_an_endpoint_of() {
    let index = index();
    for (dialled, name) in [
        ("10.244.1.10:8080", format!("{WEB_A} svc=web")),
        ("[fd00:1::10]:8080", format!("{WEB_A} svc=web")),
        ("10.244.1.10:9999", WEB_A.to_owned()),
        ("10.244.2.20:5432", format!("{DB} svc=db")),
        ("10.96.0.20:5432", "shop/ svc=db".to_owned()),
        // A ping, or a port that the service does not have.
        ("10.96.0.20:0", "shop/ svc=db".to_owned()),
        ("192.168.7.1:9100", "shop/exporter-x DaemonSet/exporter @node-a(z1)".to_owned()),
        // The pod did not declare the port, but its service has it as an endpoint.
        ("192.168.7.1:7070", "shop/proxy-x DaemonSet/proxy @node-a(z1) svc=proxy".to_owned()),
        ("192.168.7.1:22", "@node-a(z1)".to_owned()),
        ("192.168.7.2:30080", "shop/ svc=web".to_owned()),
        ("192.168.7.2:30081", "@node-b(z2)".to_owned()),
        // An endpoint that is not a pod.
        ("192.0.2.1:8080", "shop/ svc=web".to_owned()),
    ] {
        assert_eq!(server(&index, dialled), name, "{dialled}");
    }
    let by_udp = index.server(end("10.244.1.10:8080"), None, UDP, AT);
    assert_eq!(describe(&by_udp), WEB_A, "the service is for TCP only");
}

#[test]
fn the_first_of_several_services_by_name_is_chosen() {
    let mut store = with_shop(Cluster::Whole);
    use super::super::samples::slice;
    for name in ["zeta", "api"] {
        let target = [("10.244.1.10", Some("web-a"))];
        store.apply(&Object::Slice(slice(&format!("{name}-1"), name, &[8080], &target)), AT);
    }
    let index = store.changes().unwrap();
    assert_eq!(server(&index, "10.244.1.10:8080"), format!("{WEB_A} svc=api"));
    assert_eq!(behind(&index, "10.96.0.10:80", "10.244.1.10:8080"), format!("{WEB_A} svc=web"));
}

#[test]
fn an_unknown_address_may_become_known_or_is_external() {
    let index = index();
    for (of, name) in [
        // In a node's pod CIDR; the named networks are wider.
        ("10.244.1.77:1", "not yet"),
        ("[fd00:1::77]:1", "not yet"),
        ("10.9.1.1:1", "external ~lab"),
        ("10.1.1.1:1", "external ~corp"),
        ("203.0.113.9:1", "external ~partner"),
        ("192.0.2.9:1", "external ~external"),
        ("[2001:db8::1]:1", "external ~external"),
        // Clusters use these ranges for services and pods.
        ("172.20.3.4:1", "not yet ~external"),
        ("100.64.1.1:1", "not yet ~external"),
        ("[fd00:99::1]:1", "not yet ~external"),
        ("224.0.0.251:1", "external ~multicast"),
        ("[ff02::fb]:1", "external ~multicast"),
        ("169.254.20.10:1", "external ~link-local"),
        ("[fe80::1]:1", "external ~link-local"),
    ] {
        assert_eq!(client(&index, of), name, "{of}");
        assert_eq!(server(&index, of), name, "{of}");
    }
}

#[test]
fn without_a_cluster_there_are_networks_only() {
    let index = Index::new(&networks(), Cluster::Absent, "node-a");
    assert_eq!(client(&index, "10.9.1.1:1"), "external ~lab");
    assert_eq!(index.client(end("192.168.7.1:1"), TCP, AT), Answer::External(None));
    assert_eq!(index.client(end("224.0.0.1:1"), TCP, AT), Answer::External(None));
}

#[test]
fn until_everything_is_read_no_address_is_external() {
    let index = store(Cluster::Partial).changes();
    assert!(index.is_none(), "nothing has changed");
    let index = with_shop(Cluster::Partial).changes().unwrap();
    assert_eq!(client(&index, "10.244.1.10:1"), WEB_A);
    assert_eq!(client(&index, "192.0.2.9:1"), "not yet ~external");
    assert_eq!(client(&index, "10.1.1.1:1"), "not yet ~corp");
    assert_eq!(client(&index, "224.0.0.1:1"), "external ~multicast");
}

#[test]
fn pods_of_other_nodes_are_named_after_the_node() {
    let index = with_shop(Cluster::Node).changes().unwrap();
    assert_eq!(client(&index, "10.244.2.99:1"), "@node-b(z2)");
    assert_eq!(client(&index, "10.244.1.99:1"), "not yet");
    assert_eq!(behind(&index, "10.96.0.10:80", "10.244.2.99:8080"), "shop/ @node-b(z2) svc=web");
}

/// With some providers nodes have no pod CIDRs; known pods then show where other pods may be.
#[test]
fn neighbours_of_pods_may_be_pods() {
    let mut store = store(Cluster::Whole);
    for object in shop().into_iter().filter(|object| !matches!(object, Object::Node(_))) {
        store.apply(&object, AT);
    }
    let index = store.changes().unwrap();
    assert_eq!(client(&index, "10.244.1.77:1"), "not yet ~corp");
    assert_eq!(client(&index, "10.245.1.77:1"), "external ~corp");
    for object in shop().into_iter().filter(|object| matches!(object, Object::Pod(_))) {
        store.delete(&object, AT);
    }
    assert_eq!(client(&store.changes().unwrap(), "10.244.1.77:1"), "external ~corp");
}

#[test]
fn parties_are_shared() {
    let index = index();
    let one = |answer: Answer| Arc::clone(answer.party().unwrap());
    for (dialled, backend) in [
        ("10.244.1.10:8080", None),
        ("10.96.0.10:80", None),
        ("10.96.0.10:80", Some("10.244.1.10:8080")),
        ("10.1.1.1:1", None),
        ("192.168.7.1:7070", None),
    ] {
        let ask = || one(index.server(end(dialled), backend.map(end), TCP, AT));
        assert!(Arc::ptr_eq(&ask(), &ask()), "{dialled} {backend:?}");
    }
    let ask = || one(index.client(end("10.244.1.10:1"), TCP, AT));
    assert!(Arc::ptr_eq(&ask(), &ask()));
}
