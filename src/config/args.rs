//! Command-line arguments, as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::styling::Style;
use clap::{CommandFactory, Parser, Subcommand};

use super::value::Given;
use super::{Format, Key, Layout, Sources};

const VERSION: &str = concat!(env!("NETMON_VERSION"), " (", env!("NETMON_COMMIT"), ", ", env!("NETMON_ARCH"), ")");

const EXAMPLES: &str = "\
Examples:
  sudo netmon                               every interface, metrics on :9090
  sudo netmon --interface eth0              one interface only
  sudo netmon --interface 'veth*' --interface eth0 --metrics-addr 127.0.0.1:9100
  sudo netmon --config /etc/netmon.yaml --set flow.max_age=5m
  curl -s localhost:9090/metrics | grep netmon_bytes_total
  sudo netmon replay capture.pcap           the flows of a capture
  sudo netmon check-system                  can this host run it?

Every configuration key can also be set by an environment variable; --help lists them.";

const REPLAY_EXAMPLES: &str = "\
Examples:
  sudo netmon replay capture.pcap
  sudo netmon replay -o json capture.pcapng.gz | jq 'select(.status == \"failed\")'
  sudo netmon replay -o csv capture.pcap > flows.csv
  sudo tcpdump -i eth0 -c 1000 -w - | sudo netmon replay -";

/// Watches the packets of this host and serves its flows as Prometheus metrics.
#[derive(Clone, Debug, Parser)]
#[command(name = "netmon", version = VERSION, after_help = EXAMPLES, after_long_help = keys())]
pub struct Args {
    /// What to do instead of watching this host
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Read this YAML configuration file; changes to it take effect without a restart
    #[arg(long, global = true, value_name = "FILE", env = "NETMON_CONFIG", hide_env = true)]
    config: Option<PathBuf>,

    /// Watch only this interface; repeatable; globs ("veth*"); "!name" excludes one. Default: every interface
    /// that has packets of its own, except loopback
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,

    /// Log level: error, warn, info, debug or trace [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Log at debug level, and start the debug server on 127.0.0.1:6060
    #[arg(long, global = true)]
    debug: bool,

    /// Serve /debug/pprof/, /debug/flows and /debug/config on this address, read-only; ":6060" is port 6060 on all
    /// addresses
    #[arg(long, value_name = "ADDR")]
    debug_server: Option<String>,

    /// Serve /metrics, /healthz and /readyz on this address; ":9090" is port 9090 on all addresses [default: :9090]
    #[arg(long, value_name = "ADDR")]
    metrics_addr: Option<String>,

    /// Protect these pages with TLS and passwords as this file says, in the format of Prometheus' exporters; /healthz and
    /// /readyz stay open
    #[arg(long, value_name = "FILE")]
    web_config: Option<String>,

    /// Path of the control socket, which netmon-cli uses; "none" for no socket [default: /run/netmon/netmon.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,

    /// Name of this node [default: $NODE_NAME, else the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,

    /// Name addresses after the objects of a Kubernetes cluster: auto, on or off [default: auto]
    #[arg(long, value_name = "WHETHER")]
    kubernetes: Option<String>,

    /// Set any configuration key; repeatable; --help lists the keys
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(&'static str, String)>,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  sudo netmon check-system
  sudo netmon check-system -o json | jq -r '.checks[] | select(.status != \"ok\") | .remedy'

The exit status is 1 if a check fails, else 0.";

/// The program's commands besides watching this host.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Check whether this host can run netmon, what to change if not, and what netmon would not see
    #[command(after_help = CHECK_EXAMPLES)]
    CheckSystem {
        /// Output format
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
        output: Layout,
    },

    /// Print the flows of a capture. Its packets go through the same kernel program, at the capture's times
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay {
        /// A pcap or pcapng file, possibly compressed with gzip; "-" is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Output format
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
        output: Format,
    },
}

/// Parses `KEY=VALUE`; the key must exist.
fn assignment(text: &str) -> Result<(&'static str, String), String> {
    let (path, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    let key = Key::named(path).ok_or_else(|| Key::unknown(path))?;
    Ok((key.path, value.to_owned()))
}

/// The keys of the configuration, for the long help.
fn keys() -> String {
    let bold = Style::new().bold();
    let mut text = format!("{EXAMPLES}\n\n{bold}Configuration keys{bold:#} (* takes effect without a restart):\n");
    for key in Key::all() {
        let live = if key.live { " *" } else { "" };
        let short = key.short.map(|short| format!(", {short}")).unwrap_or_default();
        let (bare, valid) = (key.default(), key.valid);
        text += &format!("  {bold}{}{bold:#}{live}\n          {}\n", key.path, key.about);
        text += &format!("          {valid} [default: {bare}]\n          {}{short}\n", key.variable());
    }
    text
}

impl Args {
    /// What `--version` says.
    pub const VERSION: &str = VERSION;

    /// Rejects flags that do not apply to the command they are given with.
    ///
    /// # Errors
    ///
    /// The error names the first such flag.
    pub fn check(&self) -> Result<(), clap::Error> {
        let (name, takes_interfaces) = match &self.command {
            None => return Ok(()),
            Some(Command::CheckSystem { .. }) => ("check-system", true),
            Some(Command::Replay { .. }) => ("replay", false),
        };
        let idle = [
            ("--interface", !self.interfaces.is_empty() && !takes_interfaces),
            ("--kubernetes", self.kubernetes.is_some() && !takes_interfaces),
            ("--debug-server", self.debug_server.is_some()),
            ("--metrics-addr", self.metrics_addr.is_some()),
            ("--web-config", self.web_config.is_some()),
            ("--socket", self.socket.is_some()),
            ("--node-name", self.node_name.is_some()),
        ];
        match idle.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((flag, _)) => {
                let what = format!("{flag} does not apply to {name}");
                Err(Args::command().error(clap::error::ErrorKind::ArgumentConflict, what))
            }
        }
    }

    /// The sources of the configuration; `environment` is that of the process.
    pub fn into_sources(self, environment: impl Iterator<Item = (OsString, OsString)>) -> Sources {
        // A variable whose name is not UTF-8 is no key; it is kept, because it may be a misspelt one.
        let named = environment.map(|(name, value)| (name.to_string_lossy().into_owned(), value));
        let (mut environment, mut unreadable) = (Vec::new(), Vec::new());
        for (name, value) in named {
            match value.into_string() {
                Ok(value) => environment.push((name, value)),
                Err(_) => unreadable.push(name),
            }
        }
        let text = |value: Option<String>| value.map(Given::Text);
        let list = self.interfaces.iter().flat_map(|names| names.split(',')).map(|name| name.trim().to_owned());
        let interfaces = (!self.interfaces.is_empty()).then(|| Given::List(list.collect()));
        let named = [
            ("capture.interfaces", "--interface", interfaces),
            ("log.level", "--log-level", text(self.log_level)),
            ("debug", "--debug", self.debug.then(|| Given::Text("true".to_owned()))),
            ("debug_server", "--debug-server", text(self.debug_server)),
            ("export.prometheus.address", "--metrics-addr", text(self.metrics_addr)),
            ("export.prometheus.web_config", "--web-config", text(self.web_config)),
            ("control.socket", "--socket", text(self.socket)),
            ("kubernetes.enabled", "--kubernetes", text(self.kubernetes)),
            ("node_name", "--node-name", text(self.node_name.filter(|name| !name.is_empty()))),
        ];
        let set = self.set.into_iter().map(|(path, value)| (path, format!("--set {path}"), Given::Text(value)));
        let flags = named.into_iter().filter_map(|(path, flag, given)| Some((path, flag.to_owned(), given?)));
        Sources { file: self.config, environment, unreadable, flags: set.chain(flags).collect(), ..Sources::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};

    fn config(args: &[&str]) -> Config {
        let args = Args::try_parse_from([&["netmon"], args].concat()).unwrap();
        Settings::read(&args.into_sources(std::iter::empty())).unwrap().config
    }

    #[test]
    fn bare_start() {
        let config = config(&[]);
        assert_eq!(config.metrics_addr, ":9090");
        assert!(config.interfaces.patterns().is_empty());
        assert!((1..=4).contains(&config.workers));
    }

    #[test]
    fn arguments_arrive() {
        let config = config(&[
            "--interface",
            "eth0",
            "--interface",
            "veth*, !veth0",
            "--debug",
            "--node-name",
            "n1",
            "--set",
            "flow.flow_timeout=5m",
            "--metrics-addr",
            "127.0.0.1:1",
            "--kubernetes",
            "off",
        ]);
        assert_eq!(config.kubernetes, crate::names::Enabled::Off);
        assert_eq!(config.interfaces.patterns(), ["eth0", "veth*", "!veth0"]);
        assert_eq!((config.log_level, config.node_name.as_str()), (log::LevelFilter::Debug, "n1"));
        assert_eq!(config.flow_timeout.as_secs(), 300);
        assert_eq!(config.debug_server.as_deref(), Some("127.0.0.1:6060"));
        assert_eq!(config.metrics_addr, "127.0.0.1:1");
    }

    #[test]
    fn the_debug_server_is_off_unless_asked_for() {
        assert_eq!(config(&[]).debug_server, None);
        assert_eq!(config(&["--debug-server", ":6060"]).debug_server.as_deref(), Some(":6060"));
        assert_eq!(config(&["--debug", "--debug-server", "[::1]:1"]).debug_server.as_deref(), Some("[::1]:1"));
        assert_eq!(config(&["--debug", "--debug-server", "none"]).debug_server, None);
        let args = Args::try_parse_from(["netmon", "--debug-server", "localhost"]).unwrap();
        let error = Settings::read(&args.into_sources(std::iter::empty())).unwrap_err().to_string();
        assert!(error.starts_with("--debug-server: \"localhost\": without a port"), "{error}");
    }

    #[test]
    fn variables_that_are_not_utf_8_are_reported() {
        use std::os::unix::ffi::OsStringExt;
        let args = Args::try_parse_from(["netmon"]).unwrap();
        let no_text = OsString::from_vec(b"5\xffs".to_vec());
        let variables = ["NETMON_FLOW_MAX_AGE", "LESSOPEN"].map(|name| (OsString::from(name), no_text.clone()));
        let error = Settings::read(&args.into_sources(variables.into_iter())).unwrap_err().to_string();
        assert!(error.starts_with("NETMON_FLOW_MAX_AGE: not UTF-8") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn only_keys_can_be_set() {
        let error = |set: &str| Args::try_parse_from(["netmon", "--set", set]).unwrap_err().to_string();
        assert!(error("flow.max_flow=1").contains("did you mean flow.max_flows?"), "{}", error("flow.max_flow=1"));
        assert!(error("flow.max_flows").contains("KEY=VALUE"));
    }

    #[test]
    fn every_key_is_in_the_long_help() {
        let help = Args::command().render_long_help().to_string();
        for key in Key::all() {
            assert!(help.contains(key.path) && help.contains(&key.variable()), "{}", key.path);
        }
    }

    #[test]
    fn replay_takes_a_file() {
        let args = |args: &[&str]| Args::try_parse_from([&["netmon", "replay"], args].concat());
        let Some(Command::Replay { file, output }) = args(&["a.pcap", "-o", "json", "--debug"]).unwrap().command else {
            panic!("no command");
        };
        assert_eq!((file.to_str(), output), (Some("a.pcap"), Format::Json));
        let Some(Command::Replay { file, output }) = args(&["-"]).unwrap().command else { panic!("no command") };
        assert_eq!((file.to_str(), output), (Some("-"), Format::Table));
        assert!(args(&[]).is_err());
        assert!(args(&["a.pcap", "-o", "xml"]).is_err());
        let checked = |args: &[&str]| Args::try_parse_from([&["netmon"], args].concat()).unwrap().check();
        let refused = checked(&["--interface", "eth0", "replay", "a.pcap"]).unwrap_err().to_string();
        assert!(refused.contains("--interface does not apply to replay"), "{refused}");
        assert!(checked(&["--socket", "none", "check-system"]).is_err());
        assert!(checked(&["--interface", "eth0", "check-system"]).is_ok() && checked(&["--socket", "none"]).is_ok());
    }
}
