//! The index as objects are added and removed.

use super::super::samples::{
    S, TCP, THEN, describe, end, host_pod, node, owned_by, owner, pod, service, shop, slice, store, with_shop,
};
use super::super::{Cluster, Index, Kind, Object, Store};

const AT: u64 = 2 * THEN * S;

fn client(store: &mut Store, of: &str, at: u64) -> String {
    describe(&index(store).client(end(of), TCP, at))
}

fn server(store: &mut Store, of: &str) -> String {
    describe(&index(store).server(end(of), None, TCP, AT))
}

fn index(store: &mut Store) -> Index {
    store.changes().unwrap_or_else(|| store.index.clone())
}

#[test]
fn only_changes_of_names_change_the_index() {
    let mut store = with_shop(Cluster::Whole);
    assert!(store.changes().is_some());
    for object in shop() {
        store.apply(&object, AT);
    }
    for kind in Kind::ALL {
        store.begin(kind);
    }
    for object in shop() {
        store.apply(&object, AT);
    }
    for kind in Kind::ALL {
        store.finish(kind, AT);
    }
    store.expire(AT + 1000 * S);
    assert!(store.changes().is_none());
}

#[test]
fn all_that_was_there_can_go() {
    let mut store = with_shop(Cluster::Whole);
    let first = index(&mut store);
    for object in shop() {
        store.delete(&object, AT);
    }
    store.expire(AT + 121 * S);
    assert_eq!(index(&mut store).size(), Default::default());
    assert!(store.counts().iter().all(|(_, count)| *count == 0), "{:?}", store.counts());
    // An index published before has not changed.
    assert_eq!(describe(&first.client(end("10.244.1.10:1"), TCP, AT)), "shop/web-a Deployment/web @node-a(z1)");
}

#[test]
fn in_any_order_it_becomes_the_same() {
    let mut forward = with_shop(Cluster::Whole);
    let mut backward = store(Cluster::Whole);
    for object in shop().into_iter().rev() {
        backward.apply(&object, AT);
        // Half of the changes are published in between.
        backward.changes();
    }
    let (forward, backward) = (index(&mut forward), index(&mut backward));
    assert_eq!(forward.size(), backward.size());
    for of in ["10.244.1.10:8080", "10.244.2.10:8080", "10.244.2.20:5432", "192.168.7.1:9100", "192.168.7.1:7070"] {
        let ask = |index: &Index| describe(&index.server(end(of), None, TCP, AT));
        assert_eq!(ask(&forward), ask(&backward), "{of}");
        assert!(ask(&forward).contains("(z"), "{}", ask(&forward));
    }
}

#[test]
fn an_address_used_again_is_each_pod_s_in_its_time() {
    let mut store = with_shop(Cluster::Whole);
    store.delete(&Object::Pod(pod("web-a", "node-a", &[])), 3000 * S);
    assert_eq!(client(&mut store, "10.244.1.10:1", 2999 * S), "shop/web-a Deployment/web @node-a(z1)");
    assert_eq!(client(&mut store, "10.244.1.10:1", 3001 * S), "not yet");
    let mut new = pod("new", "node-a", &["10.244.1.10"]);
    new.since = 3060 * S;
    store.apply(&Object::Pod(new.clone()), 3061 * S);
    assert_eq!(client(&mut store, "10.244.1.10:1", 2999 * S), "shop/web-a Deployment/web @node-a(z1)");
    assert_eq!(client(&mut store, "10.244.1.10:1", 3060 * S), "shop/new Pod/new @node-a(z1)");
    // The old one has lingered long enough; the new one stays.
    store.expire(3121 * S);
    assert_eq!(client(&mut store, "10.244.1.10:1", 2999 * S), "not yet");
    assert_eq!(client(&mut store, "10.244.1.10:1", 3060 * S), "shop/new Pod/new @node-a(z1)");
    // Renamed, it is still the same pod at the same time.
    let renamed = owned_by(new, "StatefulSet", "set");
    store.apply(&Object::Pod(renamed), 3200 * S);
    assert_eq!(client(&mut store, "10.244.1.10:1", 3060 * S), "shop/new StatefulSet/set @node-a(z1)");
}

#[test]
fn a_finished_pod_has_no_address() {
    let mut store = with_shop(Cluster::Whole);
    let mut job = pod("job-1", "node-a", &["10.244.1.50"]);
    store.apply(&Object::Pod(job.clone()), AT);
    job.finished = true;
    store.apply(&Object::Pod(job.clone()), AT + 10 * S);
    assert_eq!(client(&mut store, "10.244.1.50:1", AT + 9 * S), "shop/job-1 Pod/job-1 @node-a(z1)");
    assert_eq!(client(&mut store, "10.244.1.50:1", AT + 11 * S), "not yet");
    // Another pod has the address now; deleting the old object at last changes nothing.
    let mut next = pod("job-2", "node-a", &["10.244.1.50"]);
    next.since = AT + 12 * S;
    store.apply(&Object::Pod(next), AT + 12 * S);
    store.delete(&Object::Pod(job), AT + 20 * S);
    assert_eq!(client(&mut store, "10.244.1.50:1", AT + 30 * S), "shop/job-2 Pod/job-2 @node-a(z1)");
}

#[test]
fn an_address_first_reported_after_the_pod_has_finished_was_its_own() {
    const JOB: &str = "shop/job-1 Job/job @node-a(z1)";
    let ended = |until: u64| {
        let job = owned_by(pod("job-1", "node-a", &["10.244.9.50", "fd00:9::50"]), "Job", "job");
        crate::names::objects::Pod { since: AT, finished: true, until: Some(until), ..job }
    };
    let unknown = store(Cluster::Whole).index.size();
    // Not reported before; known, but without an address; known with one of the two.
    for known in [None, Some(&[][..]), Some(&["10.244.9.50"][..])] {
        let mut store = with_shop(Cluster::Whole);
        let before = index(&mut store).size();
        if let Some(ips) = known {
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            let pending = crate::names::objects::Pod { finished: false, until: None, ips, ..ended(0) };
            store.apply(&Object::Pod(pending), AT);
        }
        store.apply(&Object::Pod(ended(AT + 2 * S)), AT + 3 * S);
        for of in ["10.244.9.50:1", "[fd00:9::50]:1"] {
            for (at, name) in [(AT, JOB), (AT + S, JOB), (AT + 4 * S, "not yet")] {
                assert_eq!(client(&mut store, of, at), name, "{known:?}, {of} at {}", at - AT);
            }
        }
        // A later update does not give it its address back.
        let labelled = crate::names::objects::Pod { namespace: "shop".to_owned(), since: AT - S, ..ended(AT + 2 * S) };
        store.apply(&Object::Pod(labelled), AT + 60 * S);
        store.apply(&Object::Job(owner("job", Some(("CronJob", "nightly")))), AT + 60 * S);
        assert_eq!(client(&mut store, "10.244.9.50:1", AT + S), "shop/job-1 CronJob/nightly @node-a(z1)");
        assert_eq!(client(&mut store, "10.244.9.50:1", AT + 59 * S), "not yet");
        store.expire(AT + 124 * S);
        assert_eq!(client(&mut store, "10.244.9.50:1", AT + S), "external ~corp", "it was two minutes ago");
        store.delete(&Object::Pod(ended(AT + 2 * S)), AT + 125 * S);
        store.delete(&Object::Job(owner("job", None)), AT + 125 * S);
        assert_eq!(index(&mut store).size(), before, "{known:?}");
    }
    // An agent that starts gets all pods that have not been deleted.
    let mut store = store(Cluster::Whole);
    store.apply(&Object::Pod(ended(AT)), AT + 130 * S);
    assert_eq!(index(&mut store).size(), unknown);
}

#[test]
fn the_address_of_one_that_was_never_seen_running_is_the_next_one_s_from_its_start() {
    let job = |number: u64| {
        let job = pod(&format!("job-{number}"), "node-a", &["10.244.9.50"]);
        let (since, until) = (AT + number * 10 * S, Some(AT + (number * 10 + 6) * S));
        Object::Pod(crate::names::objects::Pod { since, until, finished: true, ..job })
    };
    let mut next = pod("next", "node-a", &["10.244.9.50"]);
    next.since = AT + 20 * S;
    let next = Object::Pod(next);
    for order in [[&job(0), &job(1), &next], [&next, &job(1), &job(0)], [&job(1), &next, &job(0)]] {
        let mut store = with_shop(Cluster::Whole);
        for object in order {
            store.apply(object, AT + 21 * S);
        }
        for (second, pod) in [(0, "job-0"), (5, "job-0"), (10, "job-1"), (19, "job-1"), (20, "next"), (90, "next")] {
            let name = client(&mut store, "10.244.9.50:1", AT + second * S);
            assert_eq!(name, format!("shop/{pod} Pod/{pod} @node-a(z1)"), "{second}");
        }
        store.expire(AT + 200 * S);
        assert_eq!(client(&mut store, "10.244.9.50:1", AT + 90 * S), "shop/next Pod/next @node-a(z1)");
    }
}

#[test]
fn the_last_word_may_tell_an_address() {
    let mut store = with_shop(Cluster::Whole);
    store.apply(&Object::Pod(pod("brief", "node-a", &[])), AT);
    store.delete(&Object::Pod(pod("brief", "node-a", &["10.244.9.51"])), AT + 3 * S);
    assert_eq!(client(&mut store, "10.244.9.51:1", AT + 2 * S), "shop/brief Pod/brief @node-a(z1)");
    assert_eq!(client(&mut store, "10.244.9.51:1", AT + 3 * S), "not yet");
    // In the node's network namespace it is found by its ports.
    let mut job = host_pod("host-job", "node-a", "192.168.7.1", &[9999]);
    job.finished = true;
    store.apply(&Object::Pod(job), AT + 3 * S);
    assert_eq!(
        describe(&index(&mut store).server(end("192.168.7.1:9999"), None, TCP, AT + 2 * S)),
        "shop/host-job Pod/host-job @node-a(z1)"
    );
}

#[test]
fn a_pod_that_moves_leaves_its_old_address() {
    let mut store = with_shop(Cluster::Whole);
    let mut moving = pod("moving", "node-a", &[]);
    store.apply(&Object::Pod(moving.clone()), AT);
    moving.ips = vec!["10.244.1.60".parse().unwrap()];
    store.apply(&Object::Pod(moving.clone()), AT + S);
    moving.ips = vec!["10.244.1.61".parse().unwrap()];
    store.apply(&Object::Pod(moving), AT + 10 * S);
    assert_eq!(client(&mut store, "10.244.1.60:1", AT + 9 * S), "shop/moving Pod/moving @node-a(z1)");
    assert_eq!(client(&mut store, "10.244.1.60:1", AT + 10 * S), "not yet");
    assert_eq!(client(&mut store, "10.244.1.61:1", AT + 10 * S), "shop/moving Pod/moving @node-a(z1)");
    assert_eq!(client(&mut store, "10.244.1.61:1", AT), "not yet", "it did not exist then");
}

#[test]
fn what_a_listing_does_not_mention_is_gone() {
    let mut store = with_shop(Cluster::Whole);
    for kind in Kind::ALL {
        store.begin(kind);
    }
    // A listing that breaks off, and a complete one.
    for kind in Kind::ALL {
        store.begin(kind);
    }
    let gone = ["web-b", "node-b", "db", "db-1", "web-5d8f"];
    let stays = |object: &&Object| {
        let name = match object {
            Object::Pod(pod) => pod.name.as_str(),
            Object::Service(service) => &service.name,
            Object::Slice(slice) => &slice.name,
            Object::Node(node) => &node.name,
            Object::Namespace(namespace) => &namespace.name,
            Object::ReplicaSet(_) | Object::Job(_) => "web-5d8f",
        };
        !gone.contains(&name)
    };
    let rest: Vec<Object> = shop().iter().filter(stays).cloned().collect();
    for object in &rest {
        store.apply(object, AT);
    }
    assert_eq!(
        server(&mut store, "10.96.0.20:5432"),
        "shop/ svc=db",
        "it may still come before the end of the listing"
    );
    for kind in Kind::ALL {
        store.finish(kind, AT);
    }
    store.expire(AT + 121 * S);
    let mut scratch = super::super::samples::store(Cluster::Whole);
    for object in &rest {
        scratch.apply(object, AT);
    }
    assert_eq!(store.counts(), scratch.counts());
    assert_eq!(index(&mut store).size(), index(&mut scratch).size());
    assert_eq!(server(&mut store, "10.96.0.20:5432"), "external ~corp");
    assert_eq!(server(&mut store, "10.244.2.20:5432"), "shop/db-0 StatefulSet/db @node-b(z2)");
}

#[test]
fn owners_and_nodes_may_come_later_and_change() {
    let mut store = store(Cluster::Whole);
    let mut web = owned_by(pod("web", "node-c", &["10.3.0.1"]), "ReplicaSet", "web-77");
    store.apply(&Object::Pod(web.clone()), AT);
    assert_eq!(client(&mut store, "10.3.0.1:1", AT), "shop/web ReplicaSet/web-77 @node-c()");
    web.owner.as_mut().unwrap().deployment = Some("web".to_owned());
    store.apply(&Object::Pod(web), AT);
    assert_eq!(client(&mut store, "10.3.0.1:1", AT), "shop/web Deployment/web @node-c()", "by its hash");
    store.apply(&Object::ReplicaSet(owner("web-77", Some(("Rollout", "web")))), AT);
    store.apply(&Object::Node(node("node-c", "z1", &["192.168.7.3"], &[])), AT);
    assert_eq!(client(&mut store, "10.3.0.1:1", AT), "shop/web Rollout/web @node-c(z1)");
    store.apply(&Object::ReplicaSet(owner("web-77", Some(("Deployment", "other")))), AT);
    store.apply(&Object::Node(node("node-c", "z2", &["192.168.7.3"], &[])), AT);
    assert_eq!(client(&mut store, "10.3.0.1:1", AT), "shop/web Deployment/other @node-c(z2)");
    store.delete(&Object::ReplicaSet(owner("web-77", None)), AT);
    assert_eq!(client(&mut store, "10.3.0.1:1", AT), "shop/web Deployment/other @node-c(z2)");
}

#[test]
fn static_pods_and_ports_of_the_node() {
    let mut store = with_shop(Cluster::Whole);
    let api = owned_by(host_pod("api-node-a", "node-a", "192.168.7.1", &[6443]), "Node", "node-a");
    store.apply(&Object::Pod(api), AT);
    assert_eq!(server(&mut store, "192.168.7.1:6443"), "shop/api-node-a Pod/api @node-a(z1)");
    // A host port of a pod with its own address.
    let mut ingress = pod("ingress", "node-b", &["10.244.2.30"]);
    ingress.host_ips = vec!["192.168.7.2".parse().unwrap()];
    ingress.host_ports = host_pod("", "", "192.168.7.2", &[443]).host_ports;
    store.apply(&Object::Pod(ingress), AT);
    assert_eq!(server(&mut store, "192.168.7.2:443"), "shop/ingress Pod/ingress @node-b(z2)");
}

#[test]
fn this_node_has_the_addresses_of_its_interfaces() {
    let mut store = with_shop(Cluster::Whole);
    store.set_local(vec!["10.244.1.1".parse().unwrap()]);
    assert_eq!(client(&mut store, "10.244.1.1:1", AT), "@node-a(z1)");
    store.set_local(Vec::new());
    assert_eq!(client(&mut store, "10.244.1.1:1", AT), "not yet");
}

#[test]
fn slices_may_overlap_and_shrink() {
    let mut store = with_shop(Cluster::Whole);
    let target = [("10.244.2.20", Some("db-0"))];
    store.apply(&Object::Slice(slice("db-2", "db", &[5432], &target)), AT);
    store.delete(&Object::Slice(slice("db-1", "db", &[], &[])), AT);
    assert_eq!(server(&mut store, "10.244.2.20:5432"), "shop/db-0 StatefulSet/db @node-b(z2) svc=db");
    store.apply(&Object::Slice(slice("db-2", "db", &[5433], &target)), AT);
    assert_eq!(server(&mut store, "10.244.2.20:5432"), "shop/db-0 StatefulSet/db @node-b(z2)");
    assert_eq!(server(&mut store, "10.244.2.20:5433"), "shop/db-0 StatefulSet/db @node-b(z2) svc=db");
    store.apply(&Object::Slice(slice("db-2", "store", &[5433], &target)), AT);
    assert_eq!(server(&mut store, "10.244.2.20:5433"), "shop/db-0 StatefulSet/db @node-b(z2) svc=store");
}

#[test]
fn a_service_that_changes_leaves_its_old_ports() {
    let mut store = with_shop(Cluster::Whole);
    store.apply(&Object::Service(service("web", &["10.96.0.11"], &[(81, Some(30081))])), AT);
    for (of, name) in [
        ("10.96.0.10:80", "external ~corp"),
        ("10.96.0.11:81", "shop/ svc=web"),
        ("192.168.7.2:30080", "@node-b(z2)"),
        ("192.168.7.2:30081", "shop/ svc=web"),
    ] {
        assert_eq!(server(&mut store, of), name, "{of}");
    }
}

#[test]
fn lingering_is_bounded() {
    let mut store = store(Cluster::Whole);
    for i in 0..30_000u32 {
        let address = std::net::Ipv4Addr::from(0x0af4_0000 + i).to_string();
        let one = Object::Pod(pod(&format!("pod-{i}"), "node-a", &[&address]));
        store.apply(&one, AT);
        store.delete(&one, AT);
    }
    store.expire(AT);
    assert_eq!(index(&mut store).size().addresses, [20_000, 0, 0]);
}
