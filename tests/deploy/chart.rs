//! The Helm chart: rendered by Helm's own library, it is equal to the output of kustomize, and its configuration is the
//! agent's.

use netmon::config::Key;
use serde_json::{Value, json};

use super::manifests::{assert_valid, with};
use super::{at, config::read, kustomized, needs_tools, objects, run, the};

const CHART: &str = "deploy/helm/netmon";
const SCHEMA: &str = "deploy/helm/netmon/values.schema.json";

/// A file of values that is deleted with this value.
struct Values(std::path::PathBuf);

impl Values {
    fn new(values: &Value) -> Values {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("netmon-values-{}-{number}.yaml", std::process::id()));
        std::fs::write(&path, values.to_string()).unwrap();
        Values(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn rendered(values: &Value) -> Vec<Value> {
    objects(&["chart", CHART, Values::new(values).path()])
}

/// Asserts that both are equal except for Helm's own metadata; the configuration file is compared as the agent reads
/// it.
fn assert_same(what: &str, chart: Vec<Value>, kustomized: Vec<Value>) {
    let (by_chart, by_kustomize) = (read(&chart), read(&kustomized));
    for key in Key::all() {
        assert_eq!(key.shown(&by_chart), key.shown(&by_kustomize), "{what}: {}", key.path);
    }
    let by_name = |mut objects: Vec<Value>| {
        // A release is in a namespace that exists already.
        objects.retain(|object| object["kind"] != "Namespace");
        for object in &mut objects {
            if object["kind"] == "ConfigMap" {
                object["data"] = Value::Null;
            }
            let labels = object["metadata"]["labels"].as_object_mut().unwrap();
            for own in ["app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"] {
                labels.shift_remove(own);
            }
        }
        objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
        objects
    };
    let (chart, kustomized) = (by_name(chart), by_name(kustomized));
    assert_eq!(chart.len(), kustomized.len(), "{what}");
    for (one, other) in chart.iter().zip(&kustomized) {
        assert_eq!(one, other, "{what}");
    }
}

#[test]
fn it_is_equal_to_the_output_of_kustomize() {
    needs_tools!();
    assert_same("the base", rendered(&json!({})), kustomized("deploy/kubernetes"));
    let large = objects(&["chart", CHART, "deploy/helm/netmon/values-large-cluster.yaml"]);
    assert_same("a large cluster", large, kustomized("deploy/overlays/large-cluster"));
    let choices = [
        (json!({"serviceMonitor": {"enabled": true}}), "servicemonitor"),
        (json!({"networkPolicy": {"enabled": true}}), "networkpolicy"),
        (json!({"privilege": {"linux510": true}}), "linux-5.10"),
        (json!({"privilege": {"root": true}}), "root"),
        (json!({"privilege": {"seccomp": "Unconfined"}}), "seccomp-unconfined"),
        (json!({"privilege": {"privileged": true}}), "privileged"),
    ];
    let web = json!({"webConfig": {"secret": "netmon-web-config"}, "serviceMonitor": {"enabled": true}});
    assert_same("web-config", rendered(&web), with(&["servicemonitor", "web-config"]));
    for (values, component) in choices {
        assert_same(component, rendered(&values), with(&[component]));
    }
}

#[test]
fn objects_depend_on_the_configuration() {
    needs_tools!();
    let config = json!({"export": {"prometheus": {"port": 9191}}, "capture": {"pod_namespaces": true}});
    let values = json!({"config": config, "networkPolicy": {"enabled": true}, "env": [{"name": "NETMON_DEBUG", "value": "true"}]});
    let objects = rendered(&values);
    assert_valid(objects.clone());
    let config = read(&objects);
    assert!(config.pod_namespaces && config.log_level == log::LevelFilter::Debug, "{config:?}");
    let text = Value::from(objects.clone()).to_string();
    assert!(!text.contains("9090"), "{text}");
    let (pod, container) = super::pod(&objects);
    assert_eq!(
        container["securityContext"]["capabilities"]["add"],
        json!(["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"])
    );
    assert_eq!(pod["volumes"][2]["hostPath"]["path"], "/run/netns");
}

/// Namespaces are read only if labels of theirs are asked for.
#[test]
fn labels_need_the_right_to_read_namespaces() {
    needs_tools!();
    let rules = |objects: &[Value]| the(objects, "ClusterRole")["rules"].clone();
    let chart = rendered(&json!({"config": {"kubernetes": {"labels": ["team"]}}}));
    assert_eq!(rules(&chart), rules(&with(&["namespace-labels"])));
    assert_ne!(rules(&chart), rules(&kustomized("deploy/kubernetes")));
}

#[test]
fn it_is_clean() {
    needs_tools!();
    assert_eq!(run(&["lint", CHART], ""), Ok(String::new()));
    assert_valid(rendered(&json!({})));
    let chart = std::fs::read_to_string(at(CHART).join("Chart.yaml")).unwrap();
    for line in ["version: ", "appVersion: \""] {
        assert!(chart.contains(&format!("\n{line}{}", env!("CARGO_PKG_VERSION"))), "{line}");
    }
}

#[test]
fn a_wrong_value_is_refused() {
    needs_tools!();
    let wrong = [
        (json!({"config": {"flow": {"max_flow": 1}}}), "max_flow"),
        (json!({"config": {"capture": {"nat": "perhaps"}}}), "nat"),
        (json!({"privileged": true}), "privileged"),
    ];
    for (values, name) in wrong {
        let error = run(&["chart", CHART, Values::new(&values).path()], "").unwrap_err();
        assert!(error.contains(name), "{values}: {error}");
    }
}

/// The JSON schema of a configuration key.
fn schema(key: &Key) -> Value {
    let kind = match key.default().as_str() {
        "true" | "false" => json!("boolean"),
        list if list.starts_with('[') => json!(["array", "string"]),
        map if map.starts_with('{') => json!("object"),
        number if number.parse::<f64>().is_ok() => json!(["number", "string"]),
        _ => json!(["string", "number"]),
    };
    json!({"type": kind, "description": format!("{}; {}", key.about, key.valid)})
}

/// `config` in the chart's values has all keys of the agent's configuration.
#[test]
fn its_values_have_the_keys_of_the_configuration() {
    let mut tree = json!({"type": "object", "additionalProperties": false, "properties": {}});
    for key in Key::all() {
        let (sections, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        let mut place = &mut tree;
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            let properties = place["properties"].as_object_mut().unwrap();
            place = properties
                .entry(section)
                .or_insert_with(|| json!({"type": "object", "additionalProperties": false, "properties": {}}));
        }
        place["properties"][name] = schema(key);
    }
    let text = std::fs::read_to_string(at(SCHEMA)).unwrap();
    let mut wanted: Value = serde_json::from_str(&text).unwrap();
    wanted["properties"]["config"] = tree;
    let wanted = serde_json::to_string_pretty(&wanted).unwrap() + "\n";
    if std::env::var_os("NETMON_WRITE").is_some() {
        std::fs::write(at(SCHEMA), &wanted).unwrap();
    }
    let text = std::fs::read_to_string(at(SCHEMA)).unwrap();
    assert!(text == wanted, "{SCHEMA} is out of date: scripts/write-generated writes it again");
}
