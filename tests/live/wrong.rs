//! Invalid input of every kind causes a message and an exit code, and changes nothing.

use std::process::Command;

use netmon::config::Key;

use super::binary::NETMON;
use super::control::Operated;
use super::net::quiet_pair;
use super::traffic::transfer;
use crate::needs_root;

/// A value that the key does not accept; `None` if it accepts every text.
fn wrong(key: &Key) -> Option<&'static str> {
    Some(match key.path {
        "capture.interfaces" => "veth[",
        "capture.sampling_rate" => "1.5",
        "flow.flow_timeout" | "flow.connect_timeout" | "flow.max_age" => "soon",
        "export.prometheus.address" => "9090",
        "features.protocol_detection.protocols" => "gopher",
        "features.latency_tracking.histogram_buckets" => "5, 1",
        "features.latency_tracking.precision" | "features.latency_tracking.timestamp_source" => "exact",
        "resources.memory_limit" => "1Ki",
        "resources.cpu_limit" => "all",
        "log.level" => "loud",
        "log.format" => "xml",
        "node_name" | "control.socket" | "kubernetes.kubeconfig" | "export.prometheus.web_config" => return None,
        // Numbers and switches; other kinds of keys do not accept this word either.
        _ => "many words",
    })
}

/// All keys with invalid values.
fn wrongs() -> impl Iterator<Item = (&'static Key, &'static str)> {
    Key::all().filter_map(|key| Some((key, wrong(key)?)))
}

fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// Asserts that each is reported, with its value and the valid values.
fn assert_all_reported(said: &str, place: impl Fn(&Key) -> String) {
    for (key, value) in wrongs() {
        let wanted = format!("{}: \"{value}\": ", place(key));
        let line = said.lines().find(|line| line.contains(&wanted));
        let line = line.unwrap_or_else(|| panic!("{wanted:?} is missing in {said}"));
        assert!(line.contains(&format!("; valid: {}", key.valid)), "{line}");
    }
}

#[test]
fn every_key_refuses_invalid_values() {
    let mut flags = Command::new(NETMON);
    flags.args(wrongs().flat_map(|(key, value)| ["--set".to_owned(), format!("{}={value}", key.path)]));
    assert_all_reported(&refused(flags), |key| format!("--set {}", key.path));

    let mut environment = Command::new(NETMON);
    environment.envs(wrongs().map(|(key, value)| (key.variable(), value)));
    assert_all_reported(&refused(environment), Key::variable);

    let mut file = serde_json::json!({});
    for (key, value) in wrongs() {
        let mut place = &mut file;
        for part in key.path.split('.') {
            place = &mut place[part];
        }
        *place = value.into();
    }
    // JSON is also YAML.
    let path = std::env::temp_dir().join(format!("netmon-wrong-{}.yaml", std::process::id()));
    std::fs::write(&path, serde_json::to_string_pretty(&file).unwrap()).unwrap();
    let mut by_file = Command::new(NETMON);
    by_file.arg("--config").arg(&path);
    let said = refused(by_file);
    std::fs::remove_file(&path).unwrap();
    assert_all_reported(&said, |key| format!(" {}", key.path));
    let places = said.lines().filter(|line| line.contains(".yaml:")).count();
    assert_eq!(places, wrongs().count(), "each with its line and column: {said}");
}

#[test]
fn a_running_agent_refuses_invalid_values() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "wrong", &[]);
    let before = agent.json(&["config", "get"]);
    for (key, value) in wrongs() {
        let (code, said) = agent.refused(&["config", "set", &format!("{}={value}", key.path)]);
        let expected = if key.live { key.valid } else { "takes a restart" };
        assert!(code == 1 && said.contains(key.path) && said.contains(expected), "{}: {code}: {said}", key.path);
    }
    for (arguments, code, expected) in [
        (&["config", "unset", "performance.workers"][..], 1, "takes a restart"),
        (&["config", "unset", "colour"], 1, "unknown key colour"),
        (&["debug", "trace", "maybe"], 2, "maybe"),
        (&["debug", "packet-trace"], 2, "Usage"),
        (&["flows", "watch", "--filter", "status="], 1, "is missing here"),
        (&["flows", "dump", "--reverse"], 2, "--sort"),
        (&["flows", "dump", "--limit", "-1"], 2, "-1"),
        (&["stats"], 2, "Usage"),
        (&["stats", "packets"], 2, "packets"),
        (&["support-bundle", "--output", "/nonexistent/file"], 1, "/nonexistent/file"),
        (&["completions", "cmd"], 2, "cmd"),
        (&["man", "/nonexistent"], 1, "/nonexistent"),
        (&["--socket", "/nonexistent/sock", "status"], 2, "--socket"),
    ] {
        let (got, said) = agent.refused(arguments);
        assert!(got == code && said.contains(expected), "{arguments:?}: {got}: {said}");
    }
    assert_eq!(agent.json(&["config", "get"]), before, "nothing of that changed anything");
    // It still works.
    let sent = transfer(&a, &b, "10.9.0.2".parse().unwrap(), 1, 1000);
    super::eventually("the flow of a connection", || {
        let filter = format!("client_port={}", sent[0].client.port());
        agent.says(&["flows", "dump", "-o", "json", "--filter", &filter]).contains("\"ok\"").then_some(())
    });
}
