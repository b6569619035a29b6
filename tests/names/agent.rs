//! The agent with a cluster: what it reports about its names.

use std::net::TcpListener;
use std::process::Command;

use netmon::config::Config;
use netmon::names::Enabled;
use serde_json::Value;

use super::clusters::small;
use crate::live::agent::{Agent, watching};
use crate::live::binary::{NETMON, Program};
use crate::live::control::CLI;
use crate::live::metrics::{Page, get};
use crate::live::net::quiet_pair;
use crate::live::{PATIENCE, eventually};
use crate::needs_root;
use crate::support::apiserver::ApiServer;

#[test]
fn the_agent_reports_its_names() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let server = ApiServer::on(b.run(|| TcpListener::bind("127.0.0.1:0").unwrap()));
    server.set_all(small());
    server.set_down(true);
    let socket = std::env::temp_dir().join(format!("netmon-names-{}.sock", std::process::id()));
    let config = Config {
        kubernetes: Enabled::On,
        kubeconfig: Some(server.kubeconfig()),
        node_name: "node-a".to_owned(),
        socket: Some(socket.clone()),
        ..watching(&["vb"])
    };
    let agent = Agent::start(&b, config);
    let not_ready = Page::get(&b, &agent, "/readyz");
    assert!(not_ready.head.contains(" 503 "), "{}", not_ready.head);
    assert!(not_ready.body.contains("names of the cluster are not all read yet"), "{}", not_ready.body);
    let failures = || Page::get(&b, &agent, "/metrics").sum("netmon_names_errors_total", &["kind=\"pods\""]);
    eventually("its requests fail", || (failures() > 0.0).then_some(()));
    server.set_down(false);
    let is_ready = || Page::get(&b, &agent, "/readyz").head.contains(" 200 ");
    eventually("ready", || is_ready().then_some(()));

    let page = Page::get(&b, &agent, "/metrics");
    for (kind, count) in [("pods", 10.0), ("services", 4.0), ("endpointslices", 6.0), ("nodes", 2.0), ("jobs", 1.0)] {
        assert_eq!(page.sum("netmon_names_objects", &[&format!("kind=\"{kind}\"")]), count, "{kind}");
    }
    assert!(page.sum("netmon_names_errors_total", &["kind=\"pods\""]) > 0.0);
    assert!(page.sum("netmon_names_age_seconds", &[]) < 60.0);

    let cli = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netmon-cli"));
        let output = command.arg("--socket").arg(&socket).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let status: Value = serde_json::from_str(&cli(&["-o", "json", "status"])).unwrap();
    let names = &status["names"];
    assert_eq!((&names["synced"], &names["server"]), (&true.into(), &format!("http://{}", server.address()).into()));
    assert!(names["last_error"].is_string() && names["last_error_at"].is_string(), "{names}");
    assert!(cli(&["status"]).contains("10 pods"), "{}", cli(&["status"]));

    // It stays ready, with the names that it knows.
    server.set_down(true);
    eventually("it reports that the server is down", || {
        let status: Value = serde_json::from_str(&cli(&["-o", "json", "status"])).unwrap();
        (status["names"]["kinds"][0]["status"] == "failing").then_some(())
    });
    assert!(is_ready());
    let (_, took) = agent.stop();
    assert!(took < PATIENCE, "{took:?}");
}

/// For example in a cluster whose operator forgot the role.
#[test]
fn without_rights_it_is_not_ready_and_names_the_remedy() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let server = ApiServer::on(b.run(|| TcpListener::bind("127.0.0.1:0").unwrap()));
    server.set_all(small());
    let resources = ["pods", "services", "endpointslices", "nodes", "replicasets", "jobs"];
    resources.iter().for_each(|resource| server.deny(resource, true));
    let folder = std::env::temp_dir().join(format!("netmon-denied-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let socket = folder.join("sock");
    let mut command = b.command(NETMON);
    command.args(["--metrics-addr", "127.0.0.1:9090", "--interface", "vb", "--node-name", "node-a", "--socket"]);
    command.arg(&socket).args(["--set", &format!("kubernetes.kubeconfig={}", server.kubeconfig().display())]);
    let mut program = Program::spawn(command);
    program.wait_for("may not read");
    let page = |path: &str| get(&b, "127.0.0.1:9090".parse().unwrap(), path);
    let not_ready = eventually("it says what is denied", || {
        Some(page("/readyz")).filter(|page| page.body.contains("may not read"))
    });
    assert!(not_ready.head.contains(" 503 "), "{}", not_ready.head);
    assert_eq!(not_ready.body.trim_end().lines().count(), 1, "{}", not_ready.body);
    assert!(page("/healthz").head.contains(" 200 "), "a restart would not help");
    for part in ["pods", "services", "endpointslices", "nodes", "403", "kubectl apply -f deploy/kubernetes/rbac.yaml"] {
        assert!(not_ready.body.contains(part), "{part}: {}", not_ready.body);
    }
    let doctor = b.command(CLI).arg("--socket").arg(&socket).args(["-o", "json", "doctor"]).output().unwrap();
    let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let cluster = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "cluster").unwrap();
    assert_eq!((doctor.status.code(), &cluster["status"]), (Some(1), &"fail".into()), "{cluster}");
    assert!(cluster["remedy"].as_str().unwrap().contains("deploy/kubernetes/rbac.yaml"), "{cluster}");

    resources.iter().for_each(|resource| server.deny(resource, false));
    eventually("ready once it may", || page("/readyz").head.contains(" 200 ").then_some(()));
    program.signal("TERM");
    let (status, _, log) = program.end();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(status.success(), "{log:#?}");
    let denials: Vec<&String> =
        log.iter().filter(|line| line.contains("may not") || line.contains("answered 403")).collect();
    assert_eq!(denials.len(), 1, "one line for all: {denials:#?}");
    for part in ["pods", "jobs", "not ready until it may", "kubectl apply -f deploy/kubernetes/rbac.yaml"] {
        assert!(denials[0].contains(part), "{part}: {}", denials[0]);
    }
}

#[test]
fn a_cluster_is_required_if_enabled_is_on() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let command = |arguments: &[&str]| {
        let mut command = b.command(NETMON);
        command.args(["--metrics-addr", "127.0.0.1:0", "--socket", "none", "--interface", "vb"]).args(arguments);
        for variable in ["KUBERNETES_SERVICE_HOST", "KUBECONFIG"] {
            command.env_remove(variable);
        }
        command.env("HOME", "/nonexistent");
        command
    };
    let output = command(&["--kubernetes", "on"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("kubernetes.kubeconfig") && error.contains("--kubernetes auto"), "{error}");
    let mut program = Program::spawn(command(&[]));
    program.wait_for("ready");
    let said = program.log.iter().filter(|line| line.contains("cluster")).count();
    assert_eq!(said, 1, "{:#?}", program.log);
}

#[test]
fn doctor_reports_what_may_not_be_read() {
    needs_root!();
    let server = ApiServer::start();
    let check = |kubeconfig: &std::path::Path| {
        let mut command = Command::new(NETMON);
        command.args(["--set", &format!("kubernetes.kubeconfig={}", kubeconfig.display())]);
        let output = command.args(["check-system", "-o", "json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "cluster").unwrap();
        (check["status"].as_str().unwrap().to_owned(), check["detail"].as_str().unwrap().to_owned())
    };
    let (status, detail) = check(&server.kubeconfig());
    assert_eq!(status, "ok", "{detail}");
    server.deny("endpointslices", true);
    let (status, detail) = check(&server.kubeconfig());
    assert!(status == "fail" && detail.contains("may not list endpointslices, watch endpointslices:"), "{detail}");
    // Without this kind, most names are the same.
    server.deny("endpointslices", false);
    server.deny("jobs", true);
    let (status, detail) = check(&server.kubeconfig());
    assert!(status == "warn" && detail.contains("may not list jobs, watch jobs:"), "{detail}");
    let kubeconfig = server.kubeconfig();
    server.set_down(true);
    let (status, detail) = check(&kubeconfig);
    assert!(status == "warn" && detail.contains("addresses stay without names"), "{detail}");
}
