//! The layers of the configuration, one over the other: default, file, environment, command line, and what was set since.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::file::{self, Position};
use super::value::Given;
use super::{Config, Key};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said otherwise.
    Default,
    /// The configuration file, and its line there.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// The command line.
    Flag(String),
    /// `netmon-cli config set`, since the start.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
            Origin::Set => f.write_str("netmon-cli config set"),
        }
    }
}

/// What the configuration is made of. It can be read again: the file may have changed.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without a meaning here are passed over.
    pub environment: Vec<(String, String)>,
    /// Paths of keys, the flags that gave them, and their values.
    pub flags: Vec<(&'static str, String, Given)>,
    /// Paths of keys, and what they were set to since the start.
    pub set: BTreeMap<&'static str, Given>,
}

/// A configuration, and where each of its values comes from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the agent is to do.
    pub config: Config,
    chosen: BTreeMap<&'static str, (Given, Origin)>,
    hints: Vec<String>,
}

impl Settings {
    /// Reads and checks all sources. The error names every fault there is.
    pub fn read(sources: &Sources) -> Result<Settings> {
        let mut settings = Settings { config: Config::default(), chosen: BTreeMap::new(), hints: Vec::new() };
        let mut faults = Vec::new();
        if let Some(path) = &sources.file {
            settings.read_file(path, &mut faults);
        }
        settings.read_environment(&sources.environment, &mut faults);
        for (path, flag, given) in &sources.flags {
            settings.choose(path, given.clone(), Origin::Flag(flag.clone()), flag, &mut faults);
        }
        for (path, given) in &sources.set {
            settings.choose(path, given.clone(), Origin::Set, path, &mut faults);
        }
        if !faults.is_empty() {
            bail!(faults.join("\n"));
        }
        for key in Key::all() {
            if let Some((given, _)) = settings.chosen.get(key.path) {
                (key.set)(&mut settings.config, given)?;
            }
        }
        Ok(settings)
    }

    fn read_file(&mut self, path: &Path, faults: &mut Vec<String>) {
        let place = |at: Position| format!("{}:{}:{}", path.display(), at.line, at.column);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return faults.push(format!("{}: {error}", path.display())),
        };
        let entries = match file::read(&text) {
            Ok(entries) => entries,
            Err((at, fault)) => return faults.push(format!("{}: {fault}", place(at))),
        };
        for entry in entries {
            let Some(key) = Key::named(&entry.path) else {
                faults.push(format!(
                    "{}: unknown key {}: {}",
                    place(entry.key_at),
                    entry.path,
                    Key::instead(&entry.path)
                ));
                continue;
            };
            if let Some(given) = entry.given {
                let origin = Origin::File(path.to_owned(), entry.key_at.line);
                self.choose(key.path, given, origin, &format!("{}: {}", place(entry.at), key.path), faults);
            }
        }
    }

    fn read_environment(&mut self, environment: &[(String, String)], faults: &mut Vec<String>) {
        let mut unknown = Vec::new();
        let mut taken: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
        for (name, value) in environment {
            // A manifest may have a variable without a value.
            if value.trim().is_empty() {
                continue;
            }
            let Some(key) = Key::all().find(|key| key.short == Some(name) || key.variable() == *name) else {
                unknown.push(name);
                continue;
            };
            match taken.insert(key.path, (name, value)) {
                Some((other, had)) if had != value => {
                    faults.push(format!("{name} and {other} contradict each other: set one of them"));
                }
                _ => {}
            }
            let given = Given::Text(value.clone());
            self.choose(key.path, given, Origin::Environment(name.clone()), name, faults);
        }
        // Not an error: Kubernetes makes variables of the names of services.
        for name in unknown.into_iter().filter(|name| name.starts_with("NETMON_")) {
            let known = Key::all().flat_map(|key| [Some(key.variable()), key.short.map(str::to_owned)]).flatten();
            if let Some(near) = super::keys::nearest(name, known) {
                self.hints.push(format!("the environment variable {name} means nothing here: did you mean {near}?"));
            }
        }
    }

    fn choose(&mut self, path: &'static str, given: Given, origin: Origin, place: &str, faults: &mut Vec<String>) {
        let Some(key) = Key::named(path) else { return };
        // On a configuration of its own: a value that a later layer covers must be valid too.
        match (key.set)(&mut Config::default(), &given) {
            Ok(()) => drop(self.chosen.insert(key.path, (given, origin))),
            Err(error) => faults.push(format!("{place}: \"{given}\": {error:#}; valid: {}", key.valid)),
        }
    }

    /// One that nobody gave.
    pub fn of(config: Config) -> Settings {
        Settings { config, chosen: BTreeMap::new(), hints: Vec::new() }
    }

    /// What is no error, and worth a line in the log.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The value of a key as it was given, else its default; and where it comes from.
    pub fn value(&self, key: &Key) -> (String, Origin) {
        match self.chosen.get(key.path) {
            Some((given, origin)) => (given.to_string(), origin.clone()),
            None => (key.default(), Origin::Default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that goes with the value.
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
    fn a_later_layer_covers_the_one_below() {
        let file =
            File::new("layers", "flow:\n  max_flows: 1\n  flow_timeout: 2s\n  connect_timeout: 3s\n  max_age: 4s\n");
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
            set: BTreeMap::new(),
        };
        sources.set.insert("flow.max_age", text("4000s"));
        let settings = Settings::read(&sources).unwrap();
        let of = |path| settings.value(Key::named(path).unwrap());
        assert_eq!(of("flow.max_flows"), ("1".to_owned(), Origin::File(file.0.clone(), 2)));
        assert_eq!(
            of("flow.flow_timeout"),
            ("20s".to_owned(), Origin::Environment("NETMON_FLOW_FLOW_TIMEOUT".to_owned()))
        );
        assert_eq!(of("flow.connect_timeout"), ("300s".to_owned(), Origin::Flag("--set".to_owned())));
        assert_eq!(of("flow.max_age"), ("4000s".to_owned(), Origin::Set));
        assert_eq!(of("performance.batch_size"), ("1000".to_owned(), Origin::Default));
        let seconds = [settings.config.flow_timeout, settings.config.connect_timeout, settings.config.max_age.unwrap()];
        assert_eq!(seconds.map(|duration| duration.as_secs()), [20, 300, 4000]);
    }

    /// And a running agent takes those that it is said to take, no others.
    #[test]
    fn each_variable_arrives() {
        let bare = Settings::read(&Sources::default()).unwrap();
        let differ = |a: &Config, b: &Config| format!("{a:?}") != format!("{b:?}");
        let values = [
            "false",
            "true",
            "7",
            "0.5",
            "77s",
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
        for key in Key::all().filter(|key| !key.about.starts_with("reserved")) {
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
    fn what_is_empty_is_not_given() {
        let environment = environment(&[("NODE_NAME", ""), ("NETMON_FLOW_MAX_FLOWS", " ")]);
        let file = File::new("empty", "flow:\n  max_flows:\nnode_name: ~\n");
        let settings =
            Settings::read(&Sources { file: Some(file.0.clone()), environment, ..Sources::default() }).unwrap();
        assert_eq!(settings.config.max_flows, Config::default().max_flows);
        assert_eq!(settings.config.node_name, Config::default().node_name);
    }

    #[test]
    fn what_switches_off_goes_before_what_says_how() {
        let file = File::new(
            "off",
            "features:\n  latency_tracking: {enabled: false, precision: high}\n  protocol_detection:\n    enabled: no\n    protocols: [http]\n",
        );
        let settings = Settings::read(&Sources { file: Some(file.0.clone()), ..Sources::default() }).unwrap();
        assert_eq!((settings.config.features.latency, settings.config.features.apps.len()), (None, 0));
        let precision = settings.value(Key::named("features.latency_tracking.precision").unwrap());
        assert_eq!(precision.0, "high");
    }

    /// The place, the key, the value, what is valid.
    #[test]
    fn all_faults_are_told_at_once() {
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
            vec![at("4:16: unknown key capture.interfaces.a: did you mean")],
            vec![at("6:14: flow.max_flows: \"[1, 2]\": is a list"), "from 1 to".to_owned()],
            vec![at(
                "7:3: unknown key flow.shape: valid in flow are max_flows, flow_timeout, max_age, connect_timeout",
            )],
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

    #[test]
    fn a_misspelt_variable_is_hinted_at() {
        let environment =
            environment(&[("NETMON_FLOW_MAX_FLOW", "5"), ("NETMON_AGENT_SERVICE_HOST", "10.0.0.1"), ("PATH", "/bin")]);
        let settings = Settings::read(&Sources { environment, ..Sources::default() }).unwrap();
        assert_eq!(settings.hints().len(), 1);
        assert!(
            settings.hints()[0]
                .contains("NETMON_FLOW_MAX_FLOW means nothing here: did you mean NETMON_FLOW_MAX_FLOWS?")
        );
    }

    #[test]
    fn what_takes_a_restart_is_pending() {
        let with = |pairs: &[(&str, &str)]| {
            Settings::read(&Sources { environment: environment(pairs), ..Sources::default() }).unwrap().config
        };
        let running = with(&[("NETMON_PERFORMANCE_WORKERS", "3")]);
        let wanted = with(&[("NETMON_PERFORMANCE_WORKERS", "5"), ("NETMON_FLOW_MAX_AGE", "60s")]);
        let pending = |wanted: &Config| Key::pending(&running, wanted).map(|key| key.path).collect::<Vec<_>>();
        assert_eq!(pending(&wanted), ["performance.workers"]);
        assert_eq!(pending(&running.with_live(&wanted)), Vec::<&str>::new());
    }
}
