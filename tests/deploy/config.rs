//! The agent's configuration in the manifests.

use netmon::config::{Config, Settings, Sources};
use serde_json::Value;

use super::{config, kustomized, needs_tools, pod};

/// The configuration as the agent reads it, through a mounted ConfigMap and the variables of its container.
pub fn read(objects: &[Value]) -> Config {
    let file = std::env::temp_dir().join(format!("netmon-config-{}-{:p}.yaml", std::process::id(), objects));
    std::fs::write(&file, config(objects)).unwrap();
    let environment =
        pod(objects).1["env"].as_array().unwrap().iter().filter_map(|variable| {
            Some((variable["name"].as_str()?.to_owned(), variable["value"].as_str()?.to_owned()))
        });
    let settings =
        Settings::read(&Sources { file: Some(file.clone()), environment: environment.collect(), ..Sources::default() });
    std::fs::remove_file(file).unwrap();
    let settings = settings.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(settings.hints().is_empty(), "{:?}", settings.hints());
    settings.config
}

fn quantity(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 2);
    let shift = match unit {
        "Mi" => 20,
        "Gi" => 30,
        _ => panic!("{text}"),
    };
    number.parse::<u64>().unwrap() << shift
}

fn milli(text: &str) -> u64 {
    text.strip_suffix('m').map_or_else(|| text.parse::<u64>().unwrap() * 1000, |milli| milli.parse().unwrap())
}

#[test]
fn agents_accept_it() {
    needs_tools!();
    for folder in ["deploy/kubernetes", "deploy/overlays/large-cluster"] {
        let objects = kustomized(folder);
        let config = read(&objects);
        let container = pod(&objects).1;
        let port = container["ports"][0]["containerPort"].as_u64().unwrap();
        assert_eq!(config.metrics_addr, format!(":{port}"), "{folder}: the port that is scraped and probed");
        // The agent must stay within its limits by itself, before the kernel kills or throttles it.
        let limits = &container["resources"]["limits"];
        let memory = quantity(limits["memory"].as_str().unwrap());
        assert!(config.memory_limit.unwrap() < memory * 9 / 10, "{folder}: {memory}");
        assert!(u64::from(config.cpu_limit_milli.unwrap()) < milli(limits["cpu"].as_str().unwrap()), "{folder}");
    }
}
