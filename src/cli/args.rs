//! Command-line arguments of `netmon-cli`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::events::EventArgs;
use crate::config::Layout;
use crate::config::{Args as AgentArgs, DEFAULT_SOCKET};
use crate::control::{Order, View};

const EXAMPLES: &str = "\
Examples:
  netmon-cli status
  netmon-cli flows dump --filter 'proto=tcp and dst_port=443 and status=failed' --sort bytes --limit 20
  netmon-cli flows watch --filter 'client_ip=10.0.0.0/8 and not status=ok'
  netmon-cli top --by services
  netmon-cli config set flow.max_age=300s
  netmon-cli -o json stats flows | jq .by_status

A filter compares fields of a flow (those of -o json; also proto, src_ip, dst_ip, src_port, dst_port, app, and ip, port,
bytes, packets for either end or both) by = != < <= > >= and ~ (glob), combined by and, or, not and parentheses. An address
may be compared with a network. A value that contains spaces needs double quotes.

Exit codes: 0 success; 1 no agent answers, or it refuses; 2 wrong arguments.";

const PACKET_FILTER: &str = "\
A filter compares fields of a packet: protocol (proto), ip, src_ip, dst_ip, port, src_port, dst_port, tcp_flags (SYN|ACK),
icmp_type, icmp_code, vlan, interface, hook (ingress, egress) and verdict. It is evaluated in the kernel.

Verdicts: cached: added to its flow's cache entry; new: the first packet of an entry; displaced: also the first, in place of
another flow's entry; ousted: as displaced, but the other entry's packets were lost; lost: no room; sampled_out; past_cache:
sent as a record of its own because the cache was in use (past_cache_lost: and there was no room); not_ip; malformed. Whether
another interface accounts for the packet is decided later.

Examples:
  netmon-cli debug packet-trace on --filter 'proto=tcp and port=443 and tcp_flags~*SYN*' --for 10s
  netmon-cli debug packet-trace on --filter 'not verdict=cached' --write odd.pcapng
  netmon-cli debug packet-trace on --filter 'port=53' --write - | tshark -r -";

/// Queries and controls the netmon agent of this host.
#[derive(Clone, Debug, Parser)]
#[command(name = "netmon-cli", version = AgentArgs::VERSION, after_help = EXAMPLES)]
pub struct CliArgs {
    /// The command
    #[command(subcommand)]
    pub command: Command,

    /// Output format
    #[arg(short = 'o', global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub layout: Layout,

    /// Path of the agent's control socket
    #[arg(long, global = true, value_name = "PATH", env = "NETMON_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// The program's commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show the state of the agent: interfaces, rates, coverage, losses
    Status,
    /// Show the flow table, or follow its events
    #[command(subcommand)]
    Flows(Flows),
    /// Show flows, pairs of hosts and services live on the full screen; press ? for the keys
    #[command(after_help = TOP)]
    Top(Top),
    /// Show what looked hostile, or follow it
    #[command(after_help = EVENTS)]
    Events(EventArgs),
    /// Show statistics
    #[command(subcommand)]
    Stats(Stats),
    /// Show and change the configuration in force
    #[command(subcommand)]
    Config(Config),
    /// Debug the agent, or trace packets
    #[command(subcommand)]
    Debug(Debug),
    /// Check this host and its running agent: problems, remedies, and traffic that netmon cannot see
    Doctor,
    /// Check whether this host can run netmon, without an agent
    CheckSystem,
    /// Collect diagnostics for a bug report in one file, without secrets
    #[command(after_help = BUNDLE)]
    SupportBundle(Bundle),
    /// The same as support-bundle
    #[command(subcommand, hide = true)]
    Support(Support),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of netmon and netmon-cli to a folder
    Man {
        /// The folder, which must exist
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

/// Commands for support.
#[derive(Clone, Debug, Subcommand)]
pub enum Support {
    /// The same as support-bundle
    Bundle(Bundle),
}

/// Options of the support bundle.
#[derive(Clone, Debug, Args)]
pub struct Bundle {
    /// The file to create; - is standard output [default: netmon-support.tar.gz here, with a number if it exists]
    #[arg(long = "output", value_name = "FILE")]
    pub to: Option<PathBuf>,

    /// Overwrite the file if it exists
    #[arg(long)]
    pub force: bool,
}

/// Commands about flows.
#[derive(Clone, Debug, Subcommand)]
pub enum Flows {
    /// Print the flow table
    Dump(Dump),
    /// Print flows as they start, end and fail, until interrupted
    Watch {
        /// Show only flows that match this filter
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
    },
}

/// Options for printing the flow table.
#[derive(Clone, Debug, Args)]
pub struct Dump {
    /// Show only flows that match this filter
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,

    /// Sort by this field, the greatest first; at most 100000 flows
    #[arg(long, value_name = "FIELD")]
    pub sort: Option<String>,

    /// Show the least first
    #[arg(long, requires = "sort")]
    pub reverse: bool,

    /// Maximum number of flows
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// Options of `top`.
#[derive(Clone, Debug, Args)]
pub struct Top {
    /// What each row stands for
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub by: View,

    /// Sort by this column [default: rate]
    #[arg(long, value_name = "ORDER", value_enum)]
    pub sort: Option<Order>,

    /// Show the least first
    #[arg(long)]
    pub reverse: bool,

    /// Show only flows that match this filter
    #[arg(long, value_name = "FILTER", default_value = "", hide_default_value = true)]
    pub filter: String,

    /// Time between updates; longer for an agent with very many flows
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,

    /// With -o json: number of updates, one object on each line [default: until interrupted]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

const BUNDLE: &str = "\
Examples:
  netmon-cli support-bundle
  netmon-cli support-bundle --output /tmp/netmon.tar.gz --force
  kubectl -n netmon-system exec daemonset/netmon-agent -- netmon-cli support-bundle --output - > netmon.tar.gz";

const EVENTS: &str = "\
The agent keeps the latest 1000 events. docs/detection says what each kind sees, and how to silence it.

Examples:
  netmon-cli events
  netmon-cli events watch --severity warning
  netmon-cli events --source shop/web --target 10.0.0.0/8
  netmon-cli -o json events --kind port_scan | jq -r '.flows[].server_port'";

const TOP: &str = "\
Examples:
  netmon-cli top
  netmon-cli top --by services --sort failures
  kubectl exec -it -n netmon-system daemonset/netmon-agent -- netmon-cli top --filter 'namespace=shop'
  netmon-cli -o json top --by pairs --count 1 | jq '.rows[0]'

If NO_COLOR is set, it shows no colours.";

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let valid = Duration::from_millis(250)..=Duration::from_secs(3600);
    if valid.contains(&interval) { Ok(interval) } else { Err("valid: from 250ms to 1h".to_owned()) }
}

/// Kinds of statistics.
#[derive(Clone, Debug, Subcommand)]
pub enum Stats {
    /// Count flows by protocol, direction, state and outcome
    Flows,
    /// Count series by metric, with the number of values of each label
    Series,
}

/// Commands about the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum Config {
    /// Print the values and the origin of each
    Get {
        /// Print only this key
        key: Option<String>,
    },
    /// Set a key until the agent ends
    Set {
        /// For example flow.max_age=300s
        #[arg(value_name = "KEY=VALUE", value_parser = assignment)]
        assignment: (String, String),
    },
    /// Undo an earlier set
    Unset {
        /// The key
        key: String,
    },
    /// Read the configuration file again
    Reload,
}

/// Commands for debugging.
#[derive(Clone, Debug, Subcommand)]
pub enum Debug {
    /// Log at trace level without a restart; off returns to the configured level
    Trace {
        /// on or off
        switch: Switch,
    },
    /// Print the headers of packets as the agent's BPF programs see them, with the verdict on each
    #[command(subcommand)]
    PacketTrace(PacketTrace),
}

/// Commands about single packets.
#[derive(Clone, Debug, Subcommand)]
pub enum PacketTrace {
    /// Trace packets for a while; at most 1,000 packets a second are shown, the others are counted
    #[command(after_help = PACKET_FILTER)]
    On {
        /// Trace only packets that match this filter
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,

        /// Duration of the trace, at most 10m
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
        time: Duration,

        /// Also write them to this pcapng file; - is standard output, to which nothing else is written then
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,

        /// Overwrite the file if it exists
        #[arg(long, requires = "write")]
        force: bool,
    },
    /// End the running trace, regardless of who started it
    Off,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
