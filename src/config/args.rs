//! Command-line arguments, as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::styling::Style;
use clap::{CommandFactory, Parser, Subcommand};

use super::value::Given;
use super::{Format, Key, Layout, Sources};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("NETMON_COMMIT"), ", ", env!("NETMON_ARCH"), ")");

const EXAMPLES: &str = "\
Examples:
  sudo netmon                               every interface, metrics on :9090
  sudo netmon --interface eth0              one interface only
  sudo netmon --interface 'veth*' --interface eth0 --metrics-addr 127.0.0.1:9100
  sudo netmon --config /etc/netmon.yaml --set flow.max_age=5m
  curl -s localhost:9090/metrics | grep netmon_bytes_total
  sudo netmon replay capture.pcap           the flows of a capture
  sudo netmon check-system                  can this host run it?

Each key of the configuration is also an environment variable; --help lists them.";

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
    /// What to do instead of watching
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Read this configuration file, YAML; a change of it is taken without a restart
    #[arg(long, global = true, value_name = "FILE", env = "NETMON_CONFIG", hide_env = true)]
    config: Option<PathBuf>,

    /// Watch only this interface; repeatable; globs ("veth*"); "!name" leaves one out. Default: all that have
    /// packets of their own, without loopback
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,

    /// Log this much: error, warn, info, debug or trace [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Log at debug level, and serve debugging on 127.0.0.1:6060
    #[arg(long, global = true)]
    debug: bool,

    /// Serve /debug/pprof/, /debug/flows and /debug/config here, read only; ":6060" is port 6060 on all addresses
    #[arg(long, value_name = "ADDR")]
    debug_server: Option<String>,

    /// Serve /metrics, /healthz and /readyz here; ":9090" is port 9090 on all addresses [default: :9090]
    #[arg(long, value_name = "ADDR")]
    metrics_addr: Option<String>,

    /// Make the control socket here, for netmon-cli; "none": make none [default: /run/netmon/netmon.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,

    /// Name of this node [default: $NODE_NAME, else the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,

    /// Name addresses by a cluster's objects: auto, on or off [default: auto]
    #[arg(long, value_name = "WHETHER")]
    kubernetes: Option<String>,

    /// Give any key of the configuration a value; repeatable; --help lists them
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(&'static str, String)>,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  sudo netmon check-system
  sudo netmon check-system -o json | jq -r '.checks[] | select(.status != \"ok\") | .remedy'

The exit status is 1 if a check fails, else 0.";

/// What the program can do besides watching this host.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Tell whether this host can run netmon, what to do where it cannot, and what would not be seen
    #[command(after_help = CHECK_EXAMPLES)]
    CheckSystem {
        /// How to print it
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
        output: Layout,
    },

    /// Print the flows of a capture: its packets go through the same kernel program, by the capture's clock
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay {
        /// pcap or pcapng, also compressed with gzip; "-" is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// How to print them
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
        output: Format,
    },
}

/// `KEY=VALUE` for a key that there is.
fn assignment(text: &str) -> Result<(&'static str, String), String> {
    let (path, value) = text.split_once('=').ok_or("give it as KEY=VALUE")?;
    let key = Key::named(path).ok_or_else(|| Key::unknown(path))?;
    Ok((key.path, value.to_owned()))
}

/// The keys of the configuration, for the long help.
fn keys() -> String {
    let bold = Style::new().bold();
    let mut text =
        format!("{EXAMPLES}\n\n{bold}Configuration keys{bold:#}, a running agent takes those marked with *:\n");
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

    /// Refuses flags that mean nothing to the command they are given with.
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
            ("--socket", self.socket.is_some()),
            ("--node-name", self.node_name.is_some()),
        ];
        match idle.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((flag, _)) => {
                let what = format!("{flag} means nothing to {name}");
                Err(Args::command().error(clap::error::ErrorKind::ArgumentConflict, what))
            }
        }
    }

    /// What the configuration is to be made of; `environment` is that of the process.
    pub fn into_sources(self, environment: impl Iterator<Item = (OsString, OsString)>) -> Sources {
        // A name that is no text is that of no key, and may be hinted at.
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
    fn variables_that_are_no_text_are_told() {
        use std::os::unix::ffi::OsStringExt;
        let args = Args::try_parse_from(["netmon"]).unwrap();
        let no_text = OsString::from_vec(b"5\xffs".to_vec());
        let variables = ["NETMON_FLOW_MAX_AGE", "LESSOPEN"].map(|name| (OsString::from(name), no_text.clone()));
        let error = Settings::read(&args.into_sources(variables.into_iter())).unwrap_err().to_string();
        assert!(error.starts_with("NETMON_FLOW_MAX_AGE: not UTF-8") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn what_is_set_must_be_a_key() {
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
        assert!(refused.contains("--interface means nothing to replay"), "{refused}");
        assert!(checked(&["--socket", "none", "check-system"]).is_err());
        assert!(checked(&["--interface", "eth0", "check-system"]).is_ok() && checked(&["--socket", "none"]).is_ok());
    }
}
