//! deploy/workloads: traffic for a cluster.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::manifests::{assert_valid, tempfile};
use super::{at, kustomized, needs_tools};

const FILE: &str = "realistic-traffic.yaml";

fn objects() -> Vec<Value> {
    let folder = tempfile();
    std::fs::copy(at("deploy/workloads").join(FILE), folder.join(FILE)).unwrap();
    std::fs::write(folder.join("kustomization.yaml"), json!({"resources": [FILE]}).to_string()).unwrap();
    let objects = kustomized(folder.to_str().unwrap());
    std::fs::remove_dir_all(folder).unwrap();
    objects
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// The specification of a deployment's pods, and their containers.
fn pods(objects: &[Value]) -> impl Iterator<Item = (&Value, Vec<&Value>)> {
    of_kind(objects, "Deployment").map(|deployment| {
        let pod = &deployment["spec"]["template"]["spec"];
        let lists = ["initContainers", "containers"].iter().filter_map(|list| pod[list].as_array());
        (pod, lists.flatten().collect())
    })
}

#[test]
fn are_valid() {
    needs_tools!();
    let objects = objects();
    assert_eq!(of_kind(&objects, "Deployment").count(), 10);
    let namespaced = objects.iter().filter(|object| object["kind"] != "Namespace");
    for object in namespaced {
        assert_eq!(object["metadata"]["namespace"], "netmon-traffic", "{}", object["metadata"]["name"]);
    }
    assert_valid(objects);
}

/// What the Pod Security Standard "restricted" asks for, which the namespace enforces, and more.
#[test]
fn have_no_privileges() {
    needs_tools!();
    let objects = objects();
    for (pod, containers) in pods(&objects) {
        let security = &pod["securityContext"];
        assert_eq!(
            (&security["runAsNonRoot"], &security["seccompProfile"]["type"]),
            (&json!(true), &json!("RuntimeDefault"))
        );
        assert!(security["runAsUser"].as_u64().unwrap() > 0 && pod["automountServiceAccountToken"] == false);
        assert!(pod["hostNetwork"].is_null() && pod["hostPID"].is_null() && pod["hostIPC"].is_null());
        let volumes = pod["volumes"].as_array().into_iter().flatten();
        assert!(
            volumes
                .clone()
                .all(|volume| volume["configMap"].is_object() || volume["emptyDir"]["sizeLimit"].is_string())
        );
        for container in containers {
            let wanted = json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}
            });
            assert_eq!(container["securityContext"], wanted, "{container}");
            let resources = &container["resources"];
            assert!(
                resources["requests"]["cpu"].is_string() && resources["limits"]["memory"].is_string(),
                "{container}"
            );
            let image = container["image"].as_str().unwrap();
            let (_, tag) = image.rsplit_once(':').unwrap();
            assert!(
                tag.split('.').count() >= 3 && tag.starts_with(|c: char| c.is_ascii_digit()),
                "{image} is not pinned"
            );
        }
    }
}

/// Whom the clients connect to exists, and nothing else does but where that is the point.
#[test]
fn clients_find_their_servers() {
    needs_tools!();
    let objects = objects();
    for service in of_kind(&objects, "Service") {
        let spec = &service["spec"];
        let selected = |deployment: &&Value| {
            let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
            spec["selector"].as_object().unwrap().iter().all(|label| labels.get(label.0) == Some(label.1))
        };
        let pod = &of_kind(&objects, "Deployment").find(selected).unwrap()["spec"]["template"]["spec"];
        let (port, open) = (&spec["ports"][0], &pod["containers"][0]["ports"][0]);
        let expected = [&port["targetPort"], &port["protocol"]];
        assert_eq!([&open["containerPort"], &open["protocol"]], expected, "{}", service["metadata"]["name"]);
    }
    let name = |service: &Value| {
        let (name, port) = (&service["metadata"]["name"], &service["spec"]["ports"][0]["port"]);
        format!("{}:{port}", name.as_str().unwrap())
    };
    let services: BTreeSet<String> = of_kind(&objects, "Service").map(name).collect();
    let scripts = pods(&objects).flat_map(|(_, containers)| containers).map(|container| container["args"].to_string());
    let text: String = scripts.collect();
    let dialled = text
        .split("TCP4:")
        .chain(text.split("UDP4:"))
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    let dialled: BTreeSet<&str> = dialled
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && !"-:".contains(c)).next())
        .collect();
    let missing: Vec<&&str> = dialled.iter().filter(|at| !services.contains(**at)).collect();
    assert_eq!(missing, [&"web-pods:9"], "{dialled:?} of {services:?}");
    for at in ["http://web/", "-h database", "web.netmon-traffic.svc"] {
        assert!(text.contains(at), "{at}");
    }
}

#[test]
fn scripts_parse() {
    needs_tools!();
    let objects = objects();
    let mut count = 0;
    for container in pods(&objects).flat_map(|(_, containers)| containers) {
        if container["command"].is_null() {
            continue;
        }
        count += 1;
        let script = container["args"][0].as_str().unwrap();
        let mut shell = Command::new("sh").args(["-n"]).stdin(Stdio::piped()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success(), "{script}");
    }
    assert_eq!(count, 8);
}
