//! `netmon-cli doctor` and `support-bundle`, against a running agent and without one.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use super::control::{CLI, Operated};
use super::net::quiet_pair;
use crate::needs_root;

#[test]
fn doctor_and_bundle() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "doctor", &[]);
    // With a running agent.
    let there = |arguments: &[&str]| {
        let output = b.command(CLI).arg("--socket").arg(agent.socket()).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let report = there(&["-o", "json", "doctor"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let check = |name: &str| report["checks"].as_array().unwrap().iter().find(|c| c["name"] == name).cloned();
    assert_eq!(check("agent").unwrap()["status"], "ok");
    assert_eq!(check("losses").unwrap()["status"], "ok");
    let file = agent.folder.0.join("bundle.tar.gz");
    there(&["support-bundle", "--output", file.to_str().unwrap()]);
    let list = crate::support::sh(&format!("tar tzf {}", file.display()));
    for name in [
        "manifest.json",
        "status.json",
        "config.json",
        "doctor.json",
        "metrics.txt",
        "flows.json",
        "host/version",
        "log.txt",
        "bpf.json",
        "process/limits",
    ] {
        assert!(list.contains(&format!("netmon-support/{name}\n")), "{name}: {list}");
    }
    assert_eq!(check("interfaces").unwrap()["detail"], "1 watched: vb (veth)", "as the agent is configured");
    let made = std::fs::metadata(&file).unwrap();
    assert!(made.len() < 20 << 20, "{}", made.len());
    assert_eq!(made.permissions().mode() & 0o777, 0o600, "only those who may use the socket may read it");
    let again = agent.refused(&["support-bundle", "--output", file.to_str().unwrap()]);
    assert!(again.1.contains("exists: use --force"), "{}", again.1);
    agent.says(&["support-bundle", "--output", file.to_str().unwrap(), "--force"]);
    // A bundle with the default name does not prevent the next one.
    for name in ["netmon-support.tar.gz", "netmon-support-1.tar.gz", "netmon-support-2.tar.gz"] {
        let output = agent.command(&["support-bundle"]).current_dir(&agent.folder.0).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.starts_with(name), "{said}");
        crate::support::sh(&format!("tar tzf {}/{name}", agent.folder.0.display()));
    }
    // Without an agent, the bundle has what is available, and the command reports that it is incomplete.
    let half = agent.folder.0.join("half.tar.gz");
    let output = Command::new(CLI)
        .args(["--socket", "/nonexistent/sock", "support", "bundle", "--output", half.to_str().unwrap()])
        .env("NETMON_FLOW_MAX_AGE", "5m")
        .env("AWS_SECRET_ACCESS_KEY", "hush-hush")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("manifest.json says why"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("lacks the agent's answers: no agent answers"), "{said}");
    let read = |name: &str| crate::support::sh(&format!("tar xzOf {} netmon-support/{name}", half.display()));
    assert_eq!(read("environment.txt"), "NETMON_FLOW_MAX_AGE=5m\n");
    assert!(read("manifest.json").contains("no agent answers"));
    let all = crate::support::sh(&format!("tar xzOf {}", half.display()));
    assert!(!all.contains("hush-hush"));
}
