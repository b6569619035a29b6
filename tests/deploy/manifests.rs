//! deploy/kubernetes, its overlays and components.

use serde_json::{Value, json};

use super::{at, kustomized, needs_tools, pod, run, the};

const OVERLAYS: [&str; 3] = ["deploy/overlays/kind", "deploy/overlays/minikube", "deploy/overlays/large-cluster"];

/// The base with some of the components.
pub fn with(components: &[&str]) -> Vec<Value> {
    let folder = tempfile();
    let up = "../".repeat(folder.components().count() - at("").components().count());
    let components: Vec<String> = components.iter().map(|name| format!("{up}deploy/components/{name}")).collect();
    let text = json!({"resources": [format!("{up}deploy/kubernetes")], "components": components});
    std::fs::write(folder.join("kustomization.yaml"), text.to_string()).unwrap();
    let objects = kustomized(folder.to_str().unwrap());
    std::fs::remove_dir_all(folder).unwrap();
    objects
}

/// A folder for a kustomization: it may refer to others by relative paths only.
pub fn tempfile() -> std::path::PathBuf {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = at(&format!("target/kustomize-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Validates objects against the schemas of the oldest and the newest Kubernetes that are available.
pub fn assert_valid(objects: Vec<Value>) {
    let mut different: Vec<Value> = Vec::new();
    for object in objects {
        if !different.contains(&object) {
            different.push(object);
        }
    }
    assert_eq!(run(&["validate", "1.25", "1.37"], &Value::from(different).to_string()), Ok(String::new()));
}

fn components() -> Vec<String> {
    let entries = std::fs::read_dir(at("deploy/components")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn all_are_valid() {
    needs_tools!();
    let mut objects = kustomized("deploy/kubernetes");
    objects.extend(OVERLAYS.into_iter().flat_map(kustomized));
    let components = components();
    assert_eq!(components.len(), 9);
    objects.extend(components.iter().flat_map(|component| with(&[component])));
    assert_valid(objects);
}

#[test]
fn errors_are_found() {
    needs_tools!();
    let mut objects = kustomized("deploy/kubernetes");
    let wrong = objects.iter_mut().find(|object| object["kind"] == "DaemonSet").unwrap();
    wrong["spec"]["template"]["spec"]["tolerate"] = json!(1);
    let error = run(&["validate", "1.37"], &Value::from(objects).to_string()).unwrap_err();
    assert!(error.contains("DaemonSet netmon-agent") && error.contains("tolerate"), "{error}");
}

/// `kubectl apply -f` of the four files also starts agents.
#[test]
fn the_files_suffice_without_kustomize() {
    needs_tools!();
    let files = ["namespace", "rbac", "configmap", "daemonset"];
    let resources: Vec<String> = files.iter().map(|name| format!("{name}.yaml")).collect();
    let folder = tempfile();
    for name in &resources {
        std::fs::copy(at("deploy/kubernetes").join(name), folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("kustomization.yaml"), json!({ "resources": resources }).to_string()).unwrap();
    let objects = kustomized(folder.to_str().unwrap());
    std::fs::remove_dir_all(folder).unwrap();
    let (pod, container) = pod(&objects);
    let name = |kind: &str| &the(&objects, kind)["metadata"]["name"];
    assert_eq!(&pod["serviceAccountName"], name("ServiceAccount"));
    assert_eq!(&pod["priorityClassName"], name("PriorityClass"));
    assert_eq!(&pod["volumes"][0]["configMap"]["name"], name("ConfigMap"));
    let namespace = name("Namespace");
    assert!(objects.iter().all(|object| [&Value::Null, namespace].contains(&&object["metadata"]["namespace"])));
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
    }
}

#[test]
fn agents_are_as_documented() {
    needs_tools!();
    let objects = kustomized("deploy/kubernetes");
    let names =
        ["Namespace", "DaemonSet", "ConfigMap", "Service"].map(|kind| the(&objects, kind)["metadata"]["name"].clone());
    assert_eq!(names, ["netmon-system", "netmon-agent", "netmon-config", "netmon-agent"]);
    let (pod, container) = pod(&objects);
    assert_eq!(container["image"], concat!("netmon:", env!("CARGO_PKG_VERSION")));
    assert_eq!(container["resources"]["requests"], json!({"cpu": "100m", "memory": "128Mi"}));
    assert_eq!(container["resources"]["limits"], json!({"cpu": "1", "memory": "512Mi"}));
    assert_eq!(
        (&container["livenessProbe"]["httpGet"]["path"], &container["readinessProbe"]["httpGet"]["path"]),
        (&json!("/healthz"), &json!("/readyz"))
    );
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!((&pod["hostNetwork"], &pod["enableServiceLinks"]), (&json!(true), &json!(false)));
    let mounted = container["volumeMounts"].as_array().unwrap();
    let socket = netmon::config::Config::default().socket.unwrap();
    assert!(mounted.iter().any(|mount| socket.starts_with(mount["mountPath"].as_str().unwrap())), "{socket:?}");

    let template = &the(&objects, "DaemonSet")["spec"]["template"]["metadata"];
    assert_eq!(template["labels"], the(&objects, "Service")["spec"]["selector"], "the service finds the pods");
    assert_eq!(template["labels"], the(&objects, "DaemonSet")["spec"]["selector"]["matchLabels"]);
    assert_eq!(the(&objects, "Service")["spec"]["clusterIP"], "None");
    assert_eq!(template["annotations"]["prometheus.io/port"], container["ports"][0]["containerPort"].to_string());
}

/// Only the privileges that this test names are granted.
#[test]
fn privileges_are_minimal() {
    needs_tools!();
    let base = kustomized("deploy/kubernetes");
    let (pod_of, container) = pod(&base);
    assert_eq!(
        container["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]},
        })
    );
    assert_eq!(
        pod_of["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}
        })
    );
    assert!(pod_of["hostPID"].is_null() && pod_of["hostIPC"].is_null());
    assert!(pod_of["volumes"].as_array().unwrap().iter().all(|volume| volume["hostPath"].is_null()));
    for rule in the(&base, "ClusterRole")["rules"].as_array().unwrap() {
        assert_eq!(rule["verbs"], json!(["list", "watch"]), "{rule}");
        assert!(!rule["resources"].as_array().unwrap().contains(&json!("secrets")));
    }
    let added = |components: &[&str]| {
        let objects = with(components);
        pod(&objects).1["securityContext"]["capabilities"]["add"].clone()
    };
    assert_eq!(added(&["linux-5.10"]), json!(["BPF", "NET_ADMIN", "PERFMON", "SYS_RESOURCE"]));
    assert_eq!(added(&["pod-namespaces", "root"]), json!(["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"]));
}

/// A false, zero or empty value in a field that has no other way to be absent is not stored: each `kubectl apply` would
/// find it missing, and change the object again. In these fields it is stored, because there "not set" means something
/// else.
const SAID: [&str; 7] = [
    "automountServiceAccountToken",
    "allowPrivilegeEscalation",
    "enableServiceLinks",
    "maxSurge",
    "runAsUser",
    "runAsGroup",
    "runAsNonRoot",
];

/// Finds fields of an object that the API server would leave out.
fn left_out(value: &Value, at: &str, found: &mut Vec<String>) {
    let nothing = match value {
        Value::Null => true,
        Value::Bool(said) => !said,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(_) => false,
    };
    let name = at.rsplit('.').next().unwrap_or_default();
    if nothing && !SAID.contains(&name) {
        found.push(at.to_owned());
    }
    match value {
        // Elements of an array are kept as they are.
        Value::Array(items) => items.iter().filter(|item| item.is_object()).for_each(|item| left_out(item, at, found)),
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| left_out(field, &format!("{at}.{name}"), found))
        }
        _ => {}
    }
}

#[test]
fn applying_them_again_changes_nothing() {
    needs_tools!();
    let mut objects = kustomized("deploy/kubernetes");
    objects.extend(OVERLAYS.into_iter().flat_map(kustomized));
    objects.extend(components().iter().flat_map(|component| with(&[component])));
    objects.extend(super::objects(&["chart", "deploy/helm/netmon"]));
    let mut found = Vec::new();
    for object in &objects {
        left_out(object, object["kind"].as_str().unwrap(), &mut found);
    }
    assert_eq!(found, [""; 0]);
}
