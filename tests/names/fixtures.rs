//! The names of realistic objects.

use netmon::names::{Enabled, Kind, NamesOptions, Scope, State};

use super::clusters::{Template, sample, small, with_small};
use super::{TCP, UDP, Universe, Watched, described, end, eventually, now, options};
use crate::support::apiserver::{ApiServer, Request, Streaming};

const WEB_A: &str = "shop/web-6c5d9b7f4d-4xk2p Deployment/web @node-a(eu-1a)";

#[test]
fn real_objects_have_their_names() {
    let server = with_small();
    let watched = Watched::synced(&options(&server));
    for (of, name) in [
        ("10.244.1.10:40000", WEB_A),
        ("[fd00:10:244:1::10]:40000", WEB_A),
        ("10.244.2.20:40000", "shop/db-0 StatefulSet/db @node-b(eu-1b)"),
        ("10.244.1.30:40000", "shop/report-29471520-x7hwq CronJob/report @node-a(eu-1a)"),
        // This pod has finished.
        ("10.244.1.29:40000", "not yet"),
        ("10.244.2.40:40000", "default/debug Pod/debug @node-b(eu-1b)"),
        ("192.168.7.12:40000", "@node-b(eu-1b)"),
        ("198.51.100.12:40000", "@node-b(eu-1b)"),
        ("[fd00:7::11]:40000", "@node-a(eu-1a)"),
        // The address of the node's tunnel device.
        ("10.244.2.0:40000", "@node-b(eu-1b)"),
        ("192.0.2.1:40000", "external ~external"),
        ("10.244.2.99:40000", "not yet"),
    ] {
        assert_eq!(watched.client(of), name, "{of}");
    }
    let exporter = "monitoring/node-exporter-7k4tn DaemonSet/node-exporter @node-a(eu-1a)";
    let api = "kube-system/kube-apiserver-node-a Pod/kube-apiserver @node-a(eu-1a) svc=kubernetes";
    let gateway = "edge/gateway-x2j8m DaemonSet/gateway @node-b(eu-1b)";
    let web = format!("{WEB_A} svc=web");
    for (of, name) in [
        ("10.244.1.10:8080", web.as_str()),
        ("[fd00:10:244:1::10]:8080", &web),
        ("10.96.40.10:80", "shop/ svc=web"),
        ("[fd00:10:96::a]:80", "shop/ svc=web"),
        ("198.51.100.80:80", "shop/ svc=web"),
        ("203.0.113.7:80", "shop/ svc=web"),
        ("192.168.7.12:30080", "shop/ svc=web"),
        // A headless service.
        ("10.244.2.20:5432", "shop/db-0 StatefulSet/db @node-b(eu-1b) svc=db"),
        ("192.168.7.11:9100", exporter),
        ("192.168.7.11:6443", api),
        ("192.168.7.11:10250", "@node-a(eu-1a)"),
        ("192.168.7.12:443", gateway),
    ] {
        assert_eq!(watched.server(of), name, "{of}");
    }
    let index = watched.names.load();
    let behind =
        |dialled, backend, protocol| described(&index.server(end(dialled), Some(end(backend)), protocol, now()));
    let dns = "kube-system/coredns-668d6bf9bc-pm6qk Deployment/coredns @node-a(eu-1a) svc=kube-dns";
    assert_eq!(behind("10.96.0.10:53", "10.244.1.2:53", UDP), dns);
    assert_eq!(behind("192.168.7.11:30080", "10.244.1.10:8080", TCP), web);
    assert_eq!(behind("10.96.0.1:443", "192.168.7.11:6443", TCP), api);
    assert_eq!(behind("192.168.7.12:443", "10.244.2.50:8443", TCP), gateway);
}

/// One request for each kind, until its watch ends after its time.
#[test]
fn lists_are_streamed() {
    let server = with_small();
    let template = Template::default();
    server.set_all((0..1200).map(|number| template.numbered_pod(number, 0)));
    let watched = Watched::synced(&options(&server));
    let asked = server.asked();
    assert!(asked.len() == 6 && asked.iter().all(|asked| asked.request == Request::Stream), "{asked:#?}");
    for asked in &asked {
        assert_eq!(
            (asked.query["resourceVersion"].as_str(), asked.query["allowWatchBookmarks"].as_str()),
            ("0", "true")
        );
        assert!(asked.query["timeoutSeconds"].parse::<u32>().unwrap() >= 240);
        // Only the owner of these objects matters.
        let metadata = matches!(asked.resource.as_str(), "replicasets" | "jobs");
        assert_eq!(asked.accept.contains("as=PartialObjectMetadata;"), metadata, "{asked:?}");
    }
    eventually("all are watched", || {
        watched.status().kinds.iter().all(|kind| kind.state == State::Watching).then_some(())
    });
    server.set(super::clusters::pod("late", "node-a", "10.244.1.77"));
    watched.becomes("10.244.1.77:1", "shop/late Deployment/web @node-a(eu-1a)");
    Universe::default().check(&server, &watched, "a stream");
    assert_eq!((watched.errors(), watched.status().last_error), (0, None));
}

#[test]
fn the_protocol_is_used_correctly() {
    let server = with_small();
    server.set_streaming(Streaming::Refused);
    let template = Template::default();
    server.set_all((0..1200).map(|number| template.numbered_pod(number, 0)));
    let watched = Watched::synced(&options(&server));
    let asked = eventually("all are watched", || {
        let asked = server.asked();
        (asked.iter().filter(|asked| asked.request == Request::Watch).count() >= 6).then_some(asked)
    });
    let of = |resource: &str, request| {
        asked.iter().filter(move |asked| asked.resource == resource && asked.request == request).collect::<Vec<_>>()
    };
    let pages = of("pods", Request::List);
    assert_eq!(pages.len(), 3, "pages of 500");
    assert!(pages.iter().all(|page| page.query["limit"] == "500") && pages[2].query.contains_key("continue"));
    assert_eq!(pages[0].query["resourceVersion"], "0", "out of the server's cache");
    for kind in options(&server).kinds() {
        let watch = of(kind.name(), Request::Watch)[0];
        assert_eq!(watch.query["allowWatchBookmarks"], "true");
        assert!(watch.query["timeoutSeconds"].parse::<u32>().unwrap() >= 240);
        // Only the owner of these objects matters.
        let metadata = matches!(kind, Kind::ReplicaSets | Kind::Jobs);
        assert_eq!(watch.accept.contains("as=PartialObjectMetadata;"), metadata, "{}", kind.name());
        assert_eq!(
            of(kind.name(), Request::List)[0].accept.contains("as=PartialObjectMetadataList;"),
            metadata,
            "{}",
            kind.name()
        );
        assert_eq!(watch.token, "first");
    }
    let status = watched.status();
    let objects = |kind| status.kinds.iter().find(|status| status.kind == kind).unwrap().objects;
    assert_eq!((objects(Kind::Pods), objects(Kind::Nodes), objects(Kind::Jobs)), (1210, 2, 1));
    assert!(status.synced && status.last_error.is_none());
    eventually("the status says so", || {
        watched.status().kinds.iter().all(|kind| kind.state == State::Watching).then_some(())
    });
}

#[test]
fn the_scope_node_reads_only_its_pods() {
    let server = with_small();
    let watched = Watched::synced(&NamesOptions { scope: Scope::Node, ..options(&server) });
    assert_eq!(watched.client("10.244.1.10:40000"), WEB_A);
    assert_eq!(watched.client("10.244.2.20:40000"), "@node-b(eu-1b)", "its node, by its network");
    assert_eq!(watched.server("10.96.40.10:80"), "shop/ svc=web");
    // The owner of its Job is not read.
    assert_eq!(watched.client("10.244.1.30:40000"), "shop/report-29471520-x7hwq Job/report-29471520 @node-a(eu-1a)");
    let mut later = sample("Pod", "debug");
    later["spec"]["nodeName"] = "node-a".into();
    later["metadata"]["name"] = "later".into();
    later["status"]["podIP"] = "10.244.1.77".into();
    later["status"]["podIPs"] = serde_json::json!([{ "ip": "10.244.1.77" }]);
    server.set(later);
    watched.becomes("10.244.1.77:40000", "default/later Pod/later @node-a(eu-1a)");
    let asked = server.asked();
    assert!(asked.iter().all(|asked| ["pods", "services", "nodes"].contains(&asked.resource.as_str())));
}

#[test]
fn changes_are_followed() {
    let server = with_small();
    let watched = Watched::synced(&options(&server));
    let mut universe = Universe::default();
    universe.add_all(&server);
    let mut node = sample("Node", "node-a");
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = "eu-1z".into();
    server.set(node);
    watched.becomes("10.244.1.10:1", "shop/web-6c5d9b7f4d-4xk2p Deployment/web @node-a(eu-1z)");
    server.delete("pods", "shop", "web-6c5d9b7f4d-4xk2p");
    watched.becomes("10.244.1.10:1", "not yet");
    let mut service = sample("Service", "web");
    service["spec"]["ports"][0]["port"] = 8000.into();
    server.set(service);
    server.delete("endpointslices", "shop", "db-003e1");
    server.delete("services", "kube-system", "kube-dns");
    universe.check(&server, &watched, "changes");
    assert_eq!(watched.server("10.244.2.20:5432"), "shop/db-0 StatefulSet/db @node-b(eu-1b)");
    for object in small() {
        let name = |of: &str| object["metadata"][of].as_str().unwrap_or("").to_owned();
        match object["kind"].as_str() {
            Some("Node") => server.delete("nodes", "", &name("name")),
            Some("Pod") if name("name") != "web-6c5d9b7f4d-4xk2p" => {
                server.delete("pods", &name("namespace"), &name("name"));
            }
            _ => {}
        }
    }
    universe.check(&server, &watched, "pods and nodes went");
}

#[test]
fn the_servers_certificate_is_checked() {
    let server = ApiServer::start_tls();
    server.set_all(small());
    let watched = Watched::synced(&options(&server));
    assert_eq!(watched.client("10.244.1.10:40000"), WEB_A);

    // The same server, with an authority that did not sign its certificate.
    let other = ApiServer::start_tls();
    let folder = |server: &ApiServer| server.kubeconfig().parent().unwrap().to_owned();
    std::fs::copy(folder(&other).join("ca.pem"), folder(&server).join("ca.pem")).unwrap();
    let deceived = Watched::start(&options(&server));
    let (_, error) = eventually("the reason is reported", || deceived.status().last_error);
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[test]
fn a_missing_cluster_is_reported() {
    let off =
        NamesOptions { enabled: Enabled::Off, kubeconfig: Some("/nonexistent".into()), ..NamesOptions::default() };
    let watched = Watched::start(&off);
    assert!(watched.watcher.is_none());
    assert_eq!(watched.client("10.1.1.1:1"), "external");
    for enabled in [Enabled::On, Enabled::Auto] {
        let options =
            NamesOptions { enabled, kubeconfig: Some("/nonexistent/config".into()), ..NamesOptions::default() };
        let Err(error) = netmon::names::start(&options, &netmon::threads::Threads::new().0) else {
            panic!("{enabled:?}: no error")
        };
        assert!(format!("{error:#}").contains("/nonexistent/config"), "{error:#}");
    }
}
