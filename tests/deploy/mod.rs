//! The contents of deploy/, rendered and checked by the usual tools, and run as the manifests say.

mod chart;
mod config;
mod container;
mod dashboard;
mod manifests;
mod workloads;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::not_run;

/// A file of the project.
fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// True if the tools that `scripts/manifests` needs are available; else `test` is noted as not run.
fn tools(test: &str) -> bool {
    let there = at("target/tools/deploy/installed").exists();
    if !there {
        not_run(test, "helm, kubectl and the schemas are missing: run scripts/deps test");
    }
    there
}

/// Returns from a test if the tools are missing.
macro_rules! needs_tools {
    () => {
        if !$crate::deploy::tools($crate::function_name!()) {
            return;
        }
    };
}
use needs_tools;

/// The output of `scripts/manifests`, or its error message.
fn run(args: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(at("scripts/manifests"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("scripts/manifests");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The rendered objects of something in deploy/.
fn objects(args: &[&str]) -> Vec<Value> {
    let text = run(args, "").unwrap_or_else(|error| panic!("{args:?}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// The objects of a kustomization.
fn kustomized(folder: &str) -> Vec<Value> {
    objects(&["kustomize", folder])
}

/// The only object of a kind.
fn the<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut of_kind = objects.iter().filter(|object| object["kind"] == kind);
    let one = of_kind.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(of_kind.next().is_none(), "there is more than one {kind}");
    one
}

/// The pod of the agent, and its container.
fn pod(objects: &[Value]) -> (&Value, &Value) {
    let pod = &the(objects, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    (pod, &pod["containers"][0])
}

/// The agent's configuration file.
fn config(objects: &[Value]) -> &str {
    the(objects, "ConfigMap")["data"]["config.yaml"].as_str().unwrap()
}
