//! After each failure, the index is the same as without it.

use std::time::Duration;

use netmon::names::{Cluster, Kind, State};
use serde_json::json;

use super::clusters::{Template, pod, sample, small, with_small};
use super::{Universe, Watched, eventually, options};
use crate::support::apiserver::{ApiServer, Fault, Request, Streaming};
use crate::support::sh;

fn status(code: u16, reason: &str) -> String {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "no" })
        .to_string()
}

/// Faults that may hit a request before any data is sent.
fn refusals() -> Vec<Fault> {
    vec![
        Fault::Drop,
        Fault::Status(500, None, "internal error".to_owned()),
        Fault::Status(503, None, status(503, "ServiceUnavailable")),
        Fault::Status(429, Some(1), "Too many requests, please try again later.".to_owned()),
        Fault::Status(410, None, status(410, "Expired")),
        Fault::Status(401, None, status(401, "Unauthorized")),
        Fault::Slow(Duration::from_millis(700)),
        Fault::Garbage,
        Fault::Cut,
    ]
}

fn happened(server: &ApiServer) {
    eventually("the failure happens", || (server.faults_left() == 0).then_some(()));
}

#[test]
fn lists_that_fail_are_read_again() {
    let tests = refusals().into_iter().map(|fault| {
        std::thread::spawn(move || {
            let server = with_small();
            server.set_streaming(Streaming::Refused);
            let template = Template::default();
            server.set_all((0..500).map(|number| template.numbered_pod(number, 0)));
            for resource in ["pods", "endpointslices", "replicasets"] {
                server.fail(resource, Request::List, fault.clone());
            }
            // Again, at the second page.
            if !matches!(fault, Fault::Slow(_)) {
                server.fail("pods", Request::List, Fault::Slow(Duration::ZERO));
            }
            server.fail("pods", Request::List, fault.clone());
            let watched = Watched::synced(&options(&server));
            happened(&server);
            Universe::default().check(&server, &watched, &format!("{fault:?}"));
            assert!(watched.errors() >= 3 || matches!(fault, Fault::Slow(_)), "{fault:?}: {}", watched.errors());
        })
    });
    for test in tests.collect::<Vec<_>>() {
        test.join().unwrap();
    }
}

#[test]
fn streams_that_fail_begin_again() {
    let mut faults = refusals();
    faults.extend([Fault::Error(410, "Expired".to_owned()), Fault::Error(500, "InternalError".to_owned())]);
    let tests = faults.into_iter().map(|fault| {
        std::thread::spawn(move || {
            let server = with_small();
            for resource in ["pods", "endpointslices", "replicasets"] {
                server.fail(resource, Request::Stream, fault.clone());
                // Again; slowness is no failure.
                if !matches!(fault, Fault::Slow(_)) {
                    server.fail(resource, Request::Stream, fault.clone());
                }
            }
            let watched = Watched::synced(&options(&server));
            happened(&server);
            Universe::default().check(&server, &watched, &format!("{fault:?}"));
            let asked = server.asked();
            assert!(asked.iter().all(|asked| asked.request == Request::Stream), "{fault:?}: {asked:#?}");
        })
    });
    for test in tests.collect::<Vec<_>>() {
        test.join().unwrap();
    }
}

#[test]
fn watches_that_fail_continue_without_a_gap() {
    let mut faults = refusals();
    faults.extend([
        Fault::Error(410, "Expired".to_owned()),
        Fault::Error(500, "InternalError".to_owned()),
        Fault::Error(504, "Timeout".to_owned()),
    ]);
    let tests = faults.into_iter().map(|fault| {
        std::thread::spawn(move || {
            let server = with_small();
            let watched = Watched::synced(&options(&server));
            let mut universe = Universe::default();
            universe.add_all(&server);
            for round in 0..2 {
                for resource in ["pods", "services", "endpointslices", "nodes"] {
                    server.fail(resource, Request::Watch, fault.clone());
                }
                server.disconnect();
                // This happens while the watch fails.
                let name = format!("late-{round}");
                server.set(pod(&name, "node-b", &format!("10.244.2.20{round}")));
                server.delete("pods", "shop", if round == 0 { "web-6c5d9b7f4d-9qz7w" } else { "late-0" });
                let mut services = small().into_iter().filter(|object| object["kind"] == "Service");
                let mut service = services.nth(1).unwrap();
                service["metadata"]["name"] = json!(format!("service-{round}"));
                service["spec"]["clusterIP"] = json!(format!("10.96.77.{round}"));
                server.set(service);
                eventually("the failure happens", || {
                    // A kind that was being read again when the watches ended continues with the same request.
                    if watched.status().kinds.iter().all(|kind| kind.state == State::Watching) {
                        server.disconnect();
                    }
                    (server.faults_left() == 0).then_some(())
                });
                universe.check(&server, &watched, &format!("{fault:?}"));
            }
        })
    });
    for test in tests.collect::<Vec<_>>() {
        test.join().unwrap();
    }
}

#[test]
fn the_last_known_names_stay_while_the_server_is_down() {
    let server = with_small();
    let watched = Watched::synced(&options(&server));
    eventually("all are watched", || {
        watched.status().kinds.iter().all(|kind| kind.state == State::Watching).then_some(())
    });
    let mut universe = Universe::default();
    universe.add_all(&server);
    server.set_down(true);
    let status = eventually("it is noticed", || {
        let status = watched.status();
        status.kinds.iter().all(|kind| kind.state == State::Failing).then_some(status)
    });
    assert!(status.synced && status.last_error.is_some());
    eventually("the age grows", || (watched.status().age > Duration::from_secs(1)).then_some(()));
    assert_eq!(watched.client("10.244.2.20:1"), "shop/db-0 StatefulSet/db @node-b(eu-1b)");
    // Only a list shows what happens in the meantime, because the changes are compacted.
    server.delete("pods", "shop", "db-0");
    server.set(pod("new", "node-b", "10.244.2.20"));
    server.delete("services", "shop", "web");
    server.delete("nodes", "", "node-b");
    server.set(sample("Node", "node-b"));
    server.compact();
    server.set_down(false);
    watched.becomes("10.244.2.20:1", "shop/new Deployment/web @node-b(eu-1b)");
    universe.check(&server, &watched, "the server was away");
    eventually("it is followed again", || {
        watched.status().kinds.iter().all(|kind| kind.state == State::Watching).then_some(())
    });
    assert!(watched.status().age < status.age + Duration::from_secs(60));
}

#[test]
fn watches_end_after_their_time() {
    let server = with_small();
    server.set_watch_most(Duration::from_millis(1200));
    let watched = Watched::synced(&options(&server));
    let mut universe = Universe::default();
    for round in 0..4 {
        server.set(pod(&format!("round-{round}"), "node-a", &format!("10.244.1.15{round}")));
        std::thread::sleep(Duration::from_millis(700));
    }
    universe.check(&server, &watched, "watches that ended");
    assert_eq!(watched.errors(), 0, "the end after its time is no failure");
    let lists = server.asked().iter().filter(|asked| asked.request != Request::Watch).count();
    assert_eq!(lists, 2 * 6, "each watcher has read everything once");
}

#[test]
fn a_token_is_replaced() {
    let server = with_small();
    let watched = Watched::synced(&options(&server));
    // Whatever is in place of the token for a while, the watcher does not block.
    let token = server.kubeconfig().with_file_name("token");
    std::fs::remove_file(&token).unwrap();
    sh(&format!("mkfifo {}", token.display()));
    server.accept_tokens(&[]);
    server.disconnect();
    let unauthorized = || server.asked().iter().filter(|asked| asked.answered == 401).count();
    eventually("it is asked with the old one", || (unauthorized() >= 12).then_some(()));
    std::fs::remove_file(&token).unwrap();
    server.rotate_token("second");
    server.disconnect();
    server.set(pod("new", "node-a", "10.244.1.66"));
    watched.becomes("10.244.1.66:1", "shop/new Deployment/web @node-a(eu-1a)");
    let asked = server.asked();
    assert!(asked.iter().any(|asked| asked.answered == 401 && asked.token == "first"));
    assert!(asked.iter().any(|asked| asked.answered == 200 && asked.token == "second"));
}

/// Without pods, services, endpoints or nodes, every address would seem to be outside of the cluster.
#[test]
fn the_watcher_waits_for_required_kinds() {
    let tests = ["pods", "services", "endpointslices", "nodes"].map(|resource| {
        std::thread::spawn(move || {
            let server = with_small();
            server.deny(resource, true);
            server.deny("jobs", true);
            let watched = Watched::start(&options(&server));
            let status = eventually("all answered", || {
                let status = watched.status();
                status.kinds.iter().all(|kind| matches!(kind.state, State::Watching | State::Denied)).then_some(status)
            });
            let denied = status.denied.unwrap();
            assert!(!status.synced && denied.is_serious(), "{resource}: denied is not read");
            assert_eq!(watched.names.load().cluster(), Cluster::Partial, "{resource}");
            let kinds: Vec<&str> = denied.kinds.iter().map(|kind| kind.name()).collect();
            assert_eq!(kinds.iter().filter(|kind| [resource, "jobs"].contains(kind)).count(), 2, "{kinds:?}");
            let text = denied.to_string();
            assert!(text.contains(resource) && text.contains("403") && text.contains("kubeconfig"), "{text}");
            // An address that is not known may belong to anything.
            assert!(watched.client("203.0.113.77:1").starts_with("not yet"), "{resource}");
            // The right is granted a moment after the agent starts.
            server.deny(resource, false);
            eventually("it is read", || watched.status().synced.then_some(()));
            let denied = watched.status().denied.unwrap();
            assert_eq!((denied.kinds.as_slice(), denied.is_serious()), (&[Kind::Jobs][..], false));
        })
    });
    for test in tests {
        test.join().unwrap();
    }
}

/// Revoking a right later does not change what is known.
#[test]
fn kinds_that_may_no_longer_be_read_stay_known() {
    let server = with_small();
    let watched = Watched::synced(&options(&server));
    server.deny("pods", true);
    server.disconnect();
    eventually("it is denied", || watched.status().denied.is_some_and(|denied| denied.is_serious()).then_some(()));
    assert!(watched.status().synced);
    assert_eq!(watched.client("10.244.2.20:1"), "shop/db-0 StatefulSet/db @node-b(eu-1b)");
}

#[test]
fn requests_have_a_user_agent() {
    let server = with_small();
    let _watched = Watched::synced(&options(&server));
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let wanted = format!("netmon/{} (linux/{arch})", env!("NETMON_VERSION"));
    let asked = server.asked();
    assert!(asked.len() >= 6 && asked.iter().all(|asked| asked.program == wanted), "{asked:#?}");
}

/// Errors say what went wrong and what helps an operator, in other words than the library's.
#[test]
fn errors_of_tls_are_in_plain_words() {
    let server = ApiServer::start_tls();
    server.set_all(small());
    let watched = Watched::synced(&options(&server));
    server.disconnect();
    let (_, error) = eventually("it is noticed", || watched.status().last_error);
    assert!(error.contains("closed the connection without a response") && !error.contains("docs.rs"), "{error}");

    let other = ApiServer::start_tls();
    let at = |kubeconfig: std::path::PathBuf, name: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(&kubeconfig).unwrap();
        let wrong = kubeconfig.with_file_name(name);
        assert!(text.contains(from), "{text}");
        std::fs::write(&wrong, text.replace(from, to)).unwrap();
        let options = netmon::names::NamesOptions { kubeconfig: Some(wrong), ..options(&server) };
        let watched = Watched::start(&options);
        eventually("it fails", || watched.status().last_error).1
    };
    let others = other.kubeconfig().with_file_name("ca.pem").display().to_string();
    let plain = with_small();
    for (error, part) in [
        (at(server.kubeconfig(), "authority.yaml", "ca.pem", &others), "certificate-authority in the kubeconfig"),
        (at(server.kubeconfig(), "name.yaml", "https://127.0.0.1:", "https://localhost:"), "server in the kubeconfig"),
        (at(plain.kubeconfig(), "scheme.yaml", "http://", "https://"), "does not speak TLS"),
    ] {
        assert!(error.contains(part) && !error.contains("docs.rs"), "{part}: {error}");
    }
}

#[test]
fn the_watcher_does_not_wait_for_denied_kinds() {
    let server = with_small();
    server.deny("replicasets", true);
    server.deny("jobs", true);
    let watched = Watched::synced(&options(&server));
    let status = watched.status();
    let state = |kind| status.kinds.iter().find(|status| status.kind == kind).unwrap().state;
    assert_eq!((state(Kind::ReplicaSets), state(Kind::Jobs)), (State::Denied, State::Denied));
    // The owner is derived from the hash in the name; the name of a Job does not show its owner.
    assert_eq!(watched.client("10.244.1.10:1"), "shop/web-6c5d9b7f4d-4xk2p Deployment/web @node-a(eu-1a)");
    assert_eq!(watched.client("10.244.1.30:1"), "shop/report-29471520-x7hwq Job/report-29471520 @node-a(eu-1a)");
    let (_, error) = status.last_error.unwrap();
    assert!(error.contains("403") && error.contains("forbidden"), "{error}");
}
