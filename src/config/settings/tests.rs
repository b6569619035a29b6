use super::*;

/// A file that is deleted with this value.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("netmon-settings-{}-{name}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn text(value: &str) -> Given {
    Given::Text(value.to_owned())
}

const WHOLE: &str = r#"
capture:
  interfaces: ["eth0", "docker0"]
  sampling_rate: 1.0
flow:
  max_flows: 1000000
  flow_timeout: 300s
  max_age: 0s
export:
  prometheus: { enabled: true, port: 9090 }
performance:
  workers: 4
  buffer_size: 10000
  batch_size: 1000
features:
  protocol_detection: { enabled: true, protocols: ["http", "grpc", "mysql", "redis"] }
  latency_tracking: { enabled: true, histogram_buckets: [0.1, 0.5, 1, 5, 10, 50, 100, 500, 1000] }
  security_monitoring: { enabled: true, detect_port_scans: true, detect_suspicious_patterns: true }
resources:
  memory_limit: "1Gi"
  cpu_limit: "2"
  maps: { flow_map_size: 1000000, event_buffer_size: 100000 }
"#;

#[test]
fn the_documented_file_is_valid() {
    let file = File::new("whole", WHOLE);
    let settings = Settings::read(&Sources { file: Some(file.0.clone()), ..Sources::default() }).unwrap();
    let config = &settings.config;
    assert_eq!(config.interfaces.patterns(), ["eth0", "docker0"]);
    assert_eq!((config.workers, config.max_flows, config.max_age), (4, 1_000_000, None));
    assert_eq!(config.features.apps.len(), 4);
    assert_eq!((config.memory_limit, config.cpu_limit_milli), (Some(1 << 30), Some(2000)));
    assert_eq!((config.metrics_addr.as_str(), config.ring_records()), (":9090", 10_000));
}

#[test]
fn a_later_layer_overrides_the_one_below() {
    let file = File::new("layers", "flow:\n  max_flows: 1\n  flow_timeout: 2s\n  connect_timeout: 3s\n  max_age: 4s\n");
    let mut sources = Sources {
        file: Some(file.0.clone()),
        environment: environment(&[
            ("NETMON_FLOW_FLOW_TIMEOUT", "20s"),
            ("NETMON_FLOW_CONNECT_TIMEOUT", "30s"),
            ("NETMON_FLOW_MAX_AGE", "40s"),
        ]),
        flags: vec![
            ("flow.connect_timeout", "--set".to_owned(), text("300s")),
            ("flow.max_age", "--set".to_owned(), text("400s")),
        ],
        ..Sources::default()
    };
    sources.set.insert("flow.max_age", text("4000s"));
    let settings = Settings::read(&sources).unwrap();
    let of = |path| settings.value(Key::named(path).unwrap());
    assert_eq!(of("flow.max_flows"), ("1".to_owned(), Origin::File(file.0.clone(), 2)));
    assert_eq!(of("flow.flow_timeout"), ("20s".to_owned(), Origin::Environment("NETMON_FLOW_FLOW_TIMEOUT".to_owned())));
    assert_eq!(of("flow.connect_timeout"), ("300s".to_owned(), Origin::Flag("--set".to_owned())));
    assert_eq!(of("flow.max_age"), ("4000s".to_owned(), Origin::Set));
    assert_eq!(of("performance.batch_size"), ("1000".to_owned(), Origin::Default));
    let seconds = [settings.config.flow_timeout, settings.config.connect_timeout, settings.config.max_age.unwrap()];
    assert_eq!(seconds.map(|duration| duration.as_secs()), [20, 300, 4000]);
}

/// A running agent accepts exactly those values that are marked as live.
#[test]
fn each_variable_takes_effect() {
    let bare = Settings::read(&Sources::default()).unwrap();
    let differ = |a: &Config, b: &Config| format!("{a:?}") != format!("{b:?}");
    let values = [
        "false",
        "true",
        "7",
        "0.5",
        "177s",
        "88Mi",
        "ssh",
        "kernel",
        "hardware",
        "high",
        "warn",
        "json",
        ":1234",
        "300",
        "1000",
        "src_zone",
        "group",
        "node",
        "10.0.0.0/8=corp",
    ];
    for key in Key::all() {
        for name in [Some(key.variable()), key.short.map(str::to_owned)].into_iter().flatten() {
            let read = |value: &&str| {
                let sources = Sources { environment: environment(&[(&name, value)]), ..Sources::default() };
                Settings::read(&sources).ok().filter(|read| differ(&read.config, &bare.config))
            };
            let changed: Vec<Settings> = values.iter().filter_map(read).collect();
            assert!(!changed.is_empty(), "no value of {name} changes anything");
            for settings in changed {
                let taken = differ(&bare.config.with_live(&settings.config), &bare.config);
                assert_eq!(taken, key.live, "{name}");
            }
        }
    }
}

#[test]
fn empty_values_count_as_not_given() {
    let environment = environment(&[("NODE_NAME", ""), ("NETMON_FLOW_MAX_FLOWS", " ")]);
    let file = File::new("empty", "flow:\n  max_flows:\nnode_name: ~\n");
    let settings = Settings::read(&Sources { file: Some(file.0.clone()), environment, ..Sources::default() }).unwrap();
    assert_eq!(settings.config.max_flows, Config::default().max_flows);
    assert_eq!(settings.config.node_name, Config::default().node_name);
}

#[test]
fn switching_off_takes_precedence_over_details() {
    let file = File::new(
        "off",
        "features:\n  latency_tracking: {enabled: false, precision: high}\n  protocol_detection:\n    enabled: no\n    protocols: [http]\n",
    );
    let settings = Settings::read(&Sources { file: Some(file.0.clone()), ..Sources::default() }).unwrap();
    assert_eq!((settings.config.features.latency, settings.config.features.apps.len()), (None, 0));
    let precision = settings.value(Key::named("features.latency_tracking.precision").unwrap());
    assert_eq!(precision.0, "high");
}

/// Each fault has its place, the key, the value and the valid values.
#[test]
fn all_faults_are_reported_at_once() {
    let file = File::new(
        "faults",
        "capture:\n  sampling_rate: 2.0\n  sampling_rat: 1\n  interfaces: {a: b}\nflow:\n  max_flows: [1, 2]\n  shape: round\nfoo: 1\n",
    );
    let sources = Sources {
        file: Some(file.0.clone()),
        environment: environment(&[
            ("NETMON_FLOW_MAX_AGE", "5"),
            ("NETMON_LOG_LEVEL", "loud"),
            ("NETMON_SAMPLING_RATE", "0.5"),
            ("NETMON_CAPTURE_SAMPLING_RATE", "0.25"),
        ]),
        flags: vec![("export.prometheus.address", "--metrics-addr".to_owned(), text("9090"))],
        ..Sources::default()
    };
    let error = Settings::read(&sources).unwrap_err().to_string();
    let at = |place: &str| format!("{}:{place}", file.0.display());
    for parts in [
        vec![at("2:18: capture.sampling_rate: \"2.0\": out of range; valid: a number above 0 and at most 1")],
        vec![at("3:3: unknown key capture.sampling_rat: did you mean capture.sampling_rate?")],
        vec![at("4:15: capture.interfaces takes a value, not keys; valid: names and globs")],
        vec![at("6:14: flow.max_flows: \"[1, 2]\": is a list"), "from 1 to".to_owned()],
        vec![at("7:3: unknown key flow.shape: valid in flow are max_flows, flow_timeout, max_age, connect_timeout")],
        vec![at("8:1: unknown key foo: "), "capture, flow, export".to_owned()],
        vec!["NETMON_FLOW_MAX_AGE: \"5\": ".to_owned(), "300s, 5m".to_owned()],
        vec!["NETMON_LOG_LEVEL: \"loud\": no such level".to_owned(), "error, warn".to_owned()],
        vec!["NETMON_CAPTURE_SAMPLING_RATE and NETMON_SAMPLING_RATE contradict".to_owned()],
        vec!["--metrics-addr: \"9090\": without a port; valid: an address and a port: :9090".to_owned()],
    ] {
        assert!(error.lines().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?} in\n{error}");
    }
    assert_eq!(error.lines().count(), 10, "{error}");
    let absent = Settings::read(&Sources { file: Some("/nonexistent.yaml".into()), ..Sources::default() });
    assert!(absent.unwrap_err().to_string().contains("/nonexistent.yaml: No such file"));
}

/// Faults beyond what a person can read are only counted, without further work.
#[test]
fn many_faults_are_few_lines() {
    let keys: String = (0..80_000).map(|number| format!("k{number}: 1\n")).collect();
    let long = format!("? {}\n: 1\nflow: {{max_age: \"{}\"}}\n", "x".repeat(500_000), "y".repeat(400_000));
    let colours = "flow:\n  \"max_\\e[31mage\\n\": 1\n  max_age: \"\\e[31m\"\n";
    for (name, text, expected) in [
        ("many", keys.as_str(), "and 79936 more"),
        ("long", &long, "xxx…: valid are capture, flow"),
        ("colours", colours, "unknown key flow.max_\\u{1b}[31mage\\n: valid in flow are"),
    ] {
        let file = File::new(name, text);
        let started = std::time::Instant::now();
        let error = Settings::read(&Sources { file: Some(file.0.clone()), ..Sources::default() }).unwrap_err();
        let error = error.to_string();
        assert!(error.len() < 20_000 && error.contains(expected), "{name}: {} bytes: {error:.2000}", error.len());
        assert!(!error.contains('\x1b'), "{error:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{name}: {:?}", started.elapsed());
    }
}

/// Contradicting values are an error: the last one does not silently win.
#[test]
fn values_given_twice_must_agree() {
    for (text, expected) in [
        ("flow.max_flows: 1\nflow:\n  max_flows: 2\n", ":3:3: flow.max_flows is given twice: also in line 1"),
        ("flow: {max_flows: 2}\nflow.max_flows:\n", ":2:1: flow.max_flows is given twice: also in line 1"),
    ] {
        let file = File::new("twice", text);
        let error = Settings::read(&Sources { file: Some(file.0.clone()), ..Sources::default() }).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    let flags = |first: &str, second: &str| Sources {
        flags: vec![
            ("log.level", "--set log.level".to_owned(), text(first)),
            ("log.level", "--log-level".to_owned(), text(second)),
        ],
        ..Sources::default()
    };
    let error = Settings::read(&flags("warn", "debug")).unwrap_err().to_string();
    assert_eq!(error, "--log-level and --set log.level contradict each other: give one of them");
    assert_eq!(Settings::read(&flags("warn", "warn")).unwrap().config.log_level, log::LevelFilter::Warn);
}

#[test]
fn sections_are_distinguished_from_keys() {
    for (text, expected) in [
        ("flow: 5\n", ":1:1: flow is a section, not a key; valid in flow are max_flows, "),
        ("export: [1]\n", ":1:1: export is a section, not a key; valid in export are prometheus.enabled, "),
        ("flow:\n  max_flows: {most: 5}\n", ":2:14: flow.max_flows takes a value, not keys; valid: a whole number"),
        ("flow: {max_flows: {}}\n", ":1:19: flow.max_flows takes a value, not keys"),
        ("flow.max_flows.most: 5\n", ":1:1: flow.max_flows takes a value, not keys"),
        ("flows:\n", ":1:1: unknown key flows: did you mean flow?"),
    ] {
        let file = File::new("section", text);
        let error = Settings::read(&Sources { file: Some(file.0.clone()), ..Sources::default() }).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    // All keys of the section are commented out.
    for text in ["flow:\n#  max_flows: 5\nexport:\n  prometheus:\n", "flow: {}\n"] {
        let file = File::new("empty-section", text);
        Settings::read(&Sources { file: Some(file.0.clone()), ..Sources::default() }).unwrap();
    }
}

#[test]
fn a_variable_that_is_not_utf_8_is_an_error() {
    let unreadable = ["NETMON_FLOW_MAX_AGE", "NODE_NAME", "LS_COLORS"].map(str::to_owned).to_vec();
    let error = Settings::read(&Sources { unreadable, ..Sources::default() }).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(error.starts_with("NETMON_FLOW_MAX_AGE: not UTF-8; valid: 0s, or a duration"), "{error}");
}

#[test]
fn a_misspelt_variable_causes_a_hint() {
    let environment =
        environment(&[("NETMON_FLOW_MAX_FLOW", "5"), ("NETMON_AGENT_SERVICE_HOST", "10.0.0.1"), ("PATH", "/bin")]);
    let settings = Settings::read(&Sources { environment, ..Sources::default() }).unwrap();
    assert_eq!(settings.hints().len(), 1);
    assert!(settings.hints()[0].contains("NETMON_FLOW_MAX_FLOW is not known: did you mean NETMON_FLOW_MAX_FLOWS?"));
}

#[test]
fn keys_that_need_a_restart_are_pending() {
    let with = |pairs: &[(&str, &str)]| {
        Settings::read(&Sources { environment: environment(pairs), ..Sources::default() }).unwrap().config
    };
    let running = with(&[("NETMON_PERFORMANCE_WORKERS", "3")]);
    let wanted = with(&[("NETMON_PERFORMANCE_WORKERS", "5"), ("NETMON_FLOW_MAX_AGE", "60s")]);
    let pending = |wanted: &Config| Key::pending(&running, wanted).map(|key| key.path).collect::<Vec<_>>();
    assert_eq!(pending(&wanted), ["performance.workers"]);
    assert_eq!(pending(&running.with_live(&wanted)), Vec::<&str>::new());
}
