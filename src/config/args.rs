//! Command-line arguments, as typed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use log::LevelFilter;

use super::features::FeatureArgs;
use super::{Config, Selection};
use crate::output::Format;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("NETMON_COMMIT"), ", ", env!("NETMON_ARCH"), ")");

const EXAMPLES: &str = "\
Examples:
  sudo netmon                               every interface, metrics on :9090
  sudo netmon --interface eth0              one interface only
  sudo netmon --interface 'veth*' --interface eth0 --metrics-addr 127.0.0.1:9100
  curl -s localhost:9090/metrics | grep netmon_bytes_total
  sudo netmon replay capture.pcap           the flows of a capture";

const REPLAY_EXAMPLES: &str = "\
Examples:
  sudo netmon replay capture.pcap
  sudo netmon replay -o json capture.pcapng.gz | jq 'select(.status == \"failed\")'
  sudo netmon replay -o csv capture.pcap > flows.csv
  sudo tcpdump -i eth0 -c 1000 -w - | sudo netmon replay -";

/// Watches the packets of this host and serves its flows as Prometheus metrics.
#[derive(Clone, Debug, Parser)]
#[command(name = "netmon", version = VERSION, after_help = EXAMPLES)]
pub struct Args {
    /// What to do instead of watching
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Watch only this interface; repeatable; globs ("veth*"); "!name" leaves one out. Default: all that have
    /// packets of their own, without loopback
    #[arg(long = "interface", value_name = "NAME", env = "NETMON_CAPTURE_INTERFACES", value_delimiter = ',')]
    interfaces: Vec<String>,

    /// Log this much
    #[arg(long, global = true, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"], default_value = "info", env = "NETMON_LOG_LEVEL")]
    log_level: String,

    /// Log at debug level
    #[arg(long, global = true, env = "NETMON_DEBUG", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::SetTrue)]
    debug: bool,

    /// Serve /metrics, /healthz and /readyz here; ":9090" is port 9090 on all addresses
    #[arg(long, value_name = "ADDR", default_value = ":9090")]
    metrics_addr: String,

    /// Name of this node [default: $NODE_NAME, else the host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME", hide_env = true)]
    node_name: Option<String>,

    // Tuning, by environment: an error shows the name of the value, so that is the variable.
    /// Worker threads
    #[arg(long, hide = true, value_name = "NETMON_PERFORMANCE_WORKERS", env = "NETMON_PERFORMANCE_WORKERS", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,

    /// Records that a ring holds
    #[arg(long, hide = true, value_name = "NETMON_PERFORMANCE_BUFFER_SIZE", env = "NETMON_PERFORMANCE_BUFFER_SIZE", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    buffer_size: Option<u32>,

    /// Records that wait before a worker is woken
    #[arg(long, hide = true, value_name = "NETMON_PERFORMANCE_BATCH_SIZE", env = "NETMON_PERFORMANCE_BATCH_SIZE", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_size: Option<u32>,

    /// Flow directions that each CPU keeps in the kernel
    #[arg(long, hide = true, value_name = "NETMON_CACHE_SLOTS", env = "NETMON_CACHE_SLOTS", value_parser = clap::value_parser!(u32).range(1..=262_144))]
    cache_slots: Option<u32>,

    /// Flows in the table at most
    #[arg(long, hide = true, value_name = "NETMON_FLOW_MAX_FLOWS", env = "NETMON_FLOW_MAX_FLOWS", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    max_flows: Option<u32>,

    /// A flow without packets for this long is over
    #[arg(long, hide = true, value_name = "NETMON_FLOW_FLOW_TIMEOUT", env = "NETMON_FLOW_FLOW_TIMEOUT", value_parser = duration)]
    flow_timeout: Option<Duration>,

    /// A SYN without an answer for this long has failed
    #[arg(long, hide = true, value_name = "NETMON_FLOW_CONNECT_TIMEOUT", env = "NETMON_FLOW_CONNECT_TIMEOUT", value_parser = duration)]
    connect_timeout: Option<Duration>,

    /// Watch pods in their own network namespaces where they have no link on the host
    #[arg(long, hide = true, env = "NETMON_CAPTURE_POD_NAMESPACES", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::SetTrue)]
    pod_namespaces: bool,

    /// Join what NAT has under two addresses
    #[arg(long, hide = true, value_name = "NETMON_CAPTURE_NAT", env = "NETMON_CAPTURE_NAT", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set)]
    nat: Option<bool>,

    #[command(flatten)]
    features: FeatureArgs,

    /// Attach by clsact even where the kernel has TCX
    #[arg(long, hide = true, env = "NETMON_FORCE_CLSACT", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::SetTrue)]
    force_clsact: bool,
}

/// What the program can do besides watching this host.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
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

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        Ok(_) => Err("at least 1s".to_owned()),
        Err(error) => Err(format!("{error}; valid are 300s, 5m, 1h")),
    }
}

impl Args {
    /// The checked configuration.
    pub fn into_config(self) -> Result<Config> {
        let default = Config::default();
        let log_level = if self.debug { "debug" } else { &self.log_level };
        Ok(Config {
            interfaces: Selection::new(&self.interfaces)?,
            metrics_addr: self.metrics_addr,
            node_name: self.node_name.filter(|n| !n.is_empty()).unwrap_or(default.node_name),
            log_level: log_level.parse().unwrap_or(LevelFilter::Info),
            workers: self.workers.map_or(default.workers, usize::from),
            buffer_size: self.buffer_size.map_or(default.buffer_size, |n| n as usize),
            batch_size: self.batch_size.map_or(default.batch_size, |n| n as usize),
            cache_slots: self.cache_slots,
            max_flows: self.max_flows.map_or(default.max_flows, |n| n as usize),
            flow_timeout: self.flow_timeout.unwrap_or(default.flow_timeout),
            connect_timeout: self.connect_timeout.unwrap_or(default.connect_timeout),
            features: self.features.check()?,
            pod_namespaces: self.pod_namespaces,
            nat: self.nat.unwrap_or(default.nat),
            clsact: self.force_clsact,
            ..default
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Config {
        Args::try_parse_from([&["netmon"], args].concat()).unwrap().into_config().unwrap()
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
            "veth*",
            "--debug",
            "--node-name",
            "n1",
            "--flow-timeout",
            "5m",
        ]);
        assert_eq!(config.interfaces.patterns(), ["eth0", "veth*"]);
        assert_eq!((config.log_level, config.node_name.as_str()), (LevelFilter::Debug, "n1"));
        assert_eq!(config.flow_timeout, Duration::from_secs(300));
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
    }

    #[test]
    fn bad_values_are_refused() {
        for args in [["--workers", "0"], ["--log-level", "loud"], ["--flow-timeout", "soon"], ["--flow-timeout", "0s"]]
        {
            assert!(Args::try_parse_from([&["netmon"], &args[..]].concat()).is_err(), "{args:?}");
        }
    }
}
