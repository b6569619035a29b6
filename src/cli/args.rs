//! Command-line arguments of `netmon-cli`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
bytes, packets for either end or both) by = != < <= > >= and ~ (glob), with and, or, not and parentheses. An address may be
compared with a network. A value with blanks stands in double quotes.

Exit codes: 0 done; 1 the agent is absent, or refused; 2 wrong arguments.";

const PACKET_FILTER: &str = "\
A filter compares what a packet tells: protocol (proto), ip, src_ip, dst_ip, port, src_port, dst_port, tcp_flags (SYN|ACK),
icmp_type, icmp_code, vlan, interface, hook (ingress, egress) and verdict. It is evaluated in the kernel.

Verdicts: cached: added to its flow's entry; new: the first of an entry; displaced: the same, in place of another flow's; ousted:
the same, and what the other held was lost; lost: no room; sampled_out; past_cache: a record of its own, since the cache was in use
(past_cache_lost: and there was no room); not_ip; malformed. Whether another interface accounts the packet is decided later.

Examples:
  netmon-cli debug packet-trace on --filter 'proto=tcp and port=443 and tcp_flags~*SYN*' --for 10s
  netmon-cli debug packet-trace on --filter 'not verdict=cached' --write odd.pcapng
  netmon-cli debug packet-trace on --filter 'port=53' --write - | tshark -r -";

/// Operates the netmon agent of this host.
#[derive(Clone, Debug, Parser)]
#[command(name = "netmon-cli", version = AgentArgs::VERSION, after_help = EXAMPLES)]
pub struct CliArgs {
    /// What to do
    #[command(subcommand)]
    pub command: Command,

    /// How to show it
    #[arg(short = 'o', global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub layout: Layout,

    /// The agent's control socket
    #[arg(long, global = true, value_name = "PATH", env = "NETMON_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// What the program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// How the agent is: interfaces, rates, coverage, losses
    Status,
    /// The flow table, and what happens in it
    #[command(subcommand)]
    Flows(Flows),
    /// Flows, pairs of hosts and services live, full screen; the key ? lists the keys
    #[command(after_help = TOP)]
    Top(Top),
    /// Counts
    #[command(subcommand)]
    Stats(Stats),
    /// The configuration in force
    #[command(subcommand)]
    Config(Config),
    /// Look closer
    #[command(subcommand)]
    Debug(Debug),
    /// Check this host and the agent that runs here: what is wrong, what helps, and what stays unseen
    Doctor,
    /// Check whether this host can run netmon, before any agent runs
    CheckSystem,
    /// Put what helps to find a fault into one file, without secrets
    #[command(after_help = BUNDLE)]
    SupportBundle(Bundle),
    /// The same
    #[command(subcommand, hide = true)]
    Support(Support),
    /// Print a shell's completions, to be sourced
    Completions {
        /// Of this shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of netmon and netmon-cli into a folder
    Man {
        /// It must be there
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

/// For those who are asked for help.
#[derive(Clone, Debug, Subcommand)]
pub enum Support {
    /// As support-bundle
    Bundle(Bundle),
}

/// What to make of all that.
#[derive(Clone, Debug, Args)]
pub struct Bundle {
    /// The file to make; - is standard output [default: netmon-support.tar.gz in this folder, with a number if it is there]
    #[arg(long = "output", value_name = "FILE")]
    pub to: Option<PathBuf>,

    /// Overwrite the file if it is there
    #[arg(long)]
    pub force: bool,
}

/// About flows.
#[derive(Clone, Debug, Subcommand)]
pub enum Flows {
    /// Print the flow table
    Dump(Dump),
    /// Print flows as they start, end and fail, until interrupted
    Watch {
        /// Only flows that pass this filter
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
    },
}

/// What of the flow table to print.
#[derive(Clone, Debug, Args)]
pub struct Dump {
    /// Only flows that pass this filter
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,

    /// In the order of this field, the greatest first; at most 100000 flows
    #[arg(long, value_name = "FIELD")]
    pub sort: Option<String>,

    /// The least first
    #[arg(long, requires = "sort")]
    pub reverse: bool,

    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// What to put in order, and how.
#[derive(Clone, Debug, Args)]
pub struct Top {
    /// What the rows are
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub by: View,

    /// What comes first [default: rate]
    #[arg(long, value_name = "ORDER", value_enum)]
    pub sort: Option<Order>,

    /// The least first
    #[arg(long)]
    pub reverse: bool,

    /// Only flows that pass this filter
    #[arg(long, value_name = "FILTER", default_value = "", hide_default_value = true)]
    pub filter: String,

    /// Look so often; an agent with very many flows is asked less often than that
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,

    /// With -o json: so many looks, an object a line [default: until interrupted]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

const BUNDLE: &str = "\
Examples:
  netmon-cli support-bundle
  netmon-cli support-bundle --output /tmp/netmon.tar.gz --force
  kubectl -n netmon-system exec daemonset/netmon-agent -- netmon-cli support-bundle --output - > netmon.tar.gz";

const TOP: &str = "\
Examples:
  netmon-cli top
  netmon-cli top --by services --sort failures
  kubectl exec -it -n netmon-system daemonset/netmon-agent -- netmon-cli top --filter 'namespace=shop'
  netmon-cli -o json top --by pairs --count 1 | jq '.rows[0]'

With NO_COLOR set it shows no colours.";

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let valid = Duration::from_millis(250)..=Duration::from_secs(3600);
    if valid.contains(&interval) { Ok(interval) } else { Err("valid: from 250ms to 1h".to_owned()) }
}

/// What to count.
#[derive(Clone, Debug, Subcommand)]
pub enum Stats {
    /// Flows by protocol, direction, state and outcome
    Flows,
    /// Series by metric, and the labels that make them many
    Series,
}

/// About the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum Config {
    /// Values, and where each comes from
    Get {
        /// This key alone
        key: Option<String>,
    },
    /// Give a key another value, until the agent ends
    Set {
        /// Such as flow.max_age=300s
        #[arg(value_name = "KEY=VALUE", value_parser = assignment)]
        assignment: (String, String),
    },
    /// Take back what was set
    Unset {
        /// Its key
        key: String,
    },
    /// Read the configuration file again
    Reload,
}

/// About details.
#[derive(Clone, Debug, Subcommand)]
pub enum Debug {
    /// Log everything, without a restart; off: as configured
    Trace {
        /// on or off
        switch: Switch,
    },
    /// Print packets as the agent's programs see them, headers alone, and what becomes of each
    #[command(subcommand)]
    PacketTrace(PacketTrace),
}

/// About single packets.
#[derive(Clone, Debug, Subcommand)]
pub enum PacketTrace {
    /// Trace, for a while: at most 1,000 packets a second are shown, the others are counted
    #[command(after_help = PACKET_FILTER)]
    On {
        /// Only packets that pass this filter
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,

        /// For so long, 10m at most
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
        time: Duration,

        /// Write them to this file too, as pcapng; - is standard output, where nothing else is written then
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,

        /// Overwrite the file if it is there
        #[arg(long, requires = "write")]
        force: bool,
    },
    /// End the trace that runs, whoever started it
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
    let (key, value) = text.split_once('=').ok_or("give it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
