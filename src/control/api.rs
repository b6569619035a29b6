//! What the agent has to offer, as the control socket hands it on. The names of fields are an interface: programs read them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::top::Busy;
use crate::bpf::TraceCounts;
use crate::config::{Given, Key};
use crate::filter::{Filter, PacketFilter};
use crate::http::Body;
use crate::line::Line;
use crate::output::PacketLine;

/// The running agent.
pub trait Api: Send + Sync + 'static {
    /// How it is.
    fn status(&self) -> Status;
    /// Gives every flow that passes to `take`, with where it is, until that returns false. No worker waits for longer than it takes to
    /// look at some thousand, and no more than some hundred are copied at a time, however long `take` takes.
    fn flows(&self, filter: &Filter, take: &mut dyn FnMut(At, Line) -> bool);
    /// Some flows, as far as they are still there.
    fn look(&self, places: &[At]) -> Vec<Line>;
    /// At most `most` flows from a place in the table on, and where the next ones are, if there are more.
    fn flows_from(&self, from: Place, most: usize) -> (Vec<Line>, Option<Place>);
    /// Gives every flow to `take`, with how fast it is; how many active ones are too many for that to be known.
    fn busy(&self, take: &mut dyn FnMut(Busy<'_>)) -> u64;
    /// What happens from now on to flows that pass; an error if too many watch already, or clients hold too much.
    fn watch(&self, filter: Filter) -> Result<Box<dyn Events>>;
    /// Flows by what is known of them.
    fn flow_stats(&self) -> FlowStats;
    /// Series by metric.
    fn series(&self) -> Vec<SeriesUse>;
    /// All values of the configuration.
    fn config(&self) -> Vec<ConfigValue>;
    /// Gives a key another value, for as long as the agent runs; `None` takes that back.
    fn set(&self, key: &'static Key, given: Option<Given>) -> Result<()>;
    /// Reads the configuration again.
    fn reload(&self) -> Result<()>;
    /// Programs and maps in the kernel.
    fn objects(&self) -> Objects;
    /// The latest lines of the log.
    fn log(&self) -> Vec<String>;
    /// The page that Prometheus reads.
    fn metrics(&self) -> Body;
    /// Traces packets that pass, for so long; an error if that cannot be, or is done for somebody else.
    fn trace(&self, filter: PacketFilter, time: Duration) -> Result<Box<dyn PacketTrace>>;
    /// Ends the trace that runs, whoever started it.
    fn end_trace(&self) -> Result<()>;
}

/// A place in the flow table. Flows keep theirs; those that come meanwhile may be before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Part of the table.
    pub shard: usize,
    /// In it.
    pub index: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shard, self.index)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Place, ()> {
        let (shard, index) = text.split_once('.').ok_or(())?;
        Ok(Place { shard: shard.parse().map_err(|_| ())?, index: index.parse().map_err(|_| ())? })
    }
}

/// Where a flow is, for as long as it is there: as small as can be, for there may be many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Part of the table.
    pub shard: u16,
    /// Tells it from those that had its place before and will have it later, as good as always.
    pub id: u16,
    /// In the part.
    pub index: u32,
}

/// Something happened to a flow.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// `start`, `end` or `fail`.
    pub event: &'static str,
    /// The flow as it was then.
    #[serde(flatten)]
    pub flow: Line,
}

/// Events as they come.
pub trait Events {
    /// The next; waits for it at most so long.
    fn next(&mut self, wait: Duration) -> Next;
    /// How many found no room since the last call, because they were not taken in time.
    fn lost(&mut self) -> u64;
}

/// What a wait for an event came to.
#[expect(clippy::large_enum_variant, reason = "handed on at once")]
pub enum Next {
    /// It came.
    Event(Event),
    /// None came in time.
    Nothing,
    /// None will come any more.
    End,
}

/// Packets as they come. Dropping it ends the trace.
pub trait PacketTrace {
    /// The next; waits for them at most so long.
    fn next(&mut self, wait: Duration) -> TraceNext;
    /// What it came to so far.
    fn counts(&self) -> TraceCounts;
}

/// What a wait for packets came to.
pub enum TraceNext {
    /// These came.
    Packets(Vec<PacketLine>),
    /// None came in time.
    Nothing,
    /// The trace is over.
    End,
}

/// How the agent is.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Status {
    pub version: &'static str,
    pub commit: &'static str,
    pub arch: &'static str,
    pub node: String,
    pub pid: u32,
    pub kernel: String,
    /// RFC 3339.
    pub started: String,
    pub uptime_s: f64,
    pub workers: usize,
    pub sampling_rate: f64,
    /// Why it is not, else null.
    pub unready: Option<String>,
    pub unhealthy: Option<String>,
    pub packets_per_s: f64,
    pub bytes_per_s: f64,
    pub flows_active: u64,
    pub flows_max: usize,
    pub flows_evicted: u64,
    /// Packets: seen + decapsulated = accounted + duplicate + ignored + lost, but for what is on its way.
    pub packets: BTreeMap<&'static str, u64>,
    pub records: u64,
    pub records_lost: u64,
    pub memory_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub cpu_limit_milli: Option<u32>,
    /// Steps taken to stay within the CPU limit.
    pub cpu_limit_level: u64,
    pub series: usize,
    pub series_limit: usize,
    pub nat_translations: u64,
    /// Null without a cluster.
    pub names: Option<NamesState>,
    pub log_lines_held_back: u64,
    pub config_reloads: u64,
    pub config_reload_failures: u64,
    /// Keys whose new values take a restart.
    pub restart_needed: Vec<&'static str>,
    /// Values of the configuration that change nothing, and why.
    pub without_effect: Vec<String>,
    /// Hooks that netmon's program was taken from, and those of them to which it was put back at once.
    pub hooks_lost: u64,
    pub hooks_restored: u64,
    pub interfaces: Vec<InterfaceState>,
}

/// How the names of a cluster are read.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct NamesState {
    pub server: String,
    pub credentials: String,
    /// All were read once.
    pub synced: bool,
    /// Since the server was heard about all kinds.
    pub age_s: f64,
    pub last_error: Option<String>,
    /// RFC 3339.
    pub last_error_at: Option<String>,
    pub kinds: Vec<NamesKind>,
}

/// Objects of a kind, which names are made of.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct NamesKind {
    pub kind: &'static str,
    /// `reading`, `watching`, `failing`, `denied`.
    pub status: &'static str,
    pub objects: usize,
    pub age_s: f64,
    pub errors: u64,
}

/// An interface of the host.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct InterfaceState {
    pub name: String,
    pub ifindex: u32,
    pub kind: String,
    /// `watched`, or why not.
    pub status: &'static str,
    /// How it is attached.
    pub mode: Option<&'static str>,
    /// Why it could not be.
    pub error: Option<String>,
    /// The other end is a pod's or a container's.
    pub faces_workload: bool,
    pub packets_in: u64,
    pub packets_out: u64,
    /// What part of the interface's own count was seen in the last minute, by hook; null without packets.
    pub coverage: [Option<f64>; 2],
    /// Why it runs other programs than it is to, if it does.
    pub outdated: Option<String>,
    /// Programs that have packets before netmon.
    pub programs_before: Vec<String>,
}

/// Flows by what is known of them.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FlowStats {
    pub active: u64,
    pub max: usize,
    pub evicted: u64,
    /// Bytes that a flow takes in the table, its times not included.
    pub flow_bytes: usize,
    pub by_protocol: BTreeMap<String, u64>,
    pub by_direction: BTreeMap<&'static str, u64>,
    pub by_state: BTreeMap<&'static str, u64>,
    pub by_status: BTreeMap<String, u64>,
    pub by_app: BTreeMap<&'static str, u64>,
    /// Since the start, of flows whose outcome is known.
    pub ended: BTreeMap<String, u64>,
}

/// Series of a metric.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SeriesUse {
    pub metric: &'static str,
    pub series: usize,
    /// Times that something was counted under "other" for want of room.
    pub overflow: u64,
    /// Those that have left, for nothing was counted in them any more.
    pub expired: u64,
    /// Values that each label has, the one with most first.
    pub labels: Vec<(&'static str, usize)>,
}

/// Programs and maps in the kernel.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Objects {
    pub programs: Vec<ProgramObject>,
    pub maps: Vec<MapObject>,
}

/// A program in the kernel.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ProgramObject {
    pub name: String,
    pub id: u32,
    pub tag: String,
    pub bytes: u32,
    /// Of machine code; 0: the kernel interprets it.
    pub compiled_bytes: u32,
    /// Where the kernel counts (`kernel.bpf_stats_enabled`), else 0.
    pub runs: u64,
    pub run_ns: u64,
}

/// A map in the kernel.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MapObject {
    pub name: String,
    pub id: u32,
    /// The kernel's number of it.
    pub map_type: u32,
    pub key_bytes: u32,
    pub value_bytes: u32,
    pub max_entries: u32,
}

/// A value of the configuration.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ConfigValue {
    pub key: &'static str,
    pub value: String,
    pub origin: String,
    /// A running agent takes another.
    pub live: bool,
    /// What is in force until a restart, if that is another value.
    pub running: Option<String>,
}
