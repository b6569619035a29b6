//! What the agent offers to the control socket and the debug server. The names of fields are an interface: programs read them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::top::RatedFlow;
use crate::bpf::TraceCounts;
use crate::config::{Given, Key};
use crate::filter::{Filter, PacketFilter};
use crate::http::Body;
use crate::line::Line;
use crate::output::PacketLine;
use crate::sinks::detect::{EventWatch, SecurityEvent};

/// The running agent.
pub trait Api: Send + Sync + 'static {
    /// The state of the agent. Takes half a second, to measure rates.
    fn status(&self) -> Status;
    /// Calls `take` with every flow that matches and its position, until that returns false. A worker waits no longer than it takes to
    /// look at a few thousand flows, and at most a few hundred are copied at a time, however long `take` takes.
    fn flows(&self, filter: &Filter, take: &mut dyn FnMut(At, Line) -> bool);
    /// The flows at these positions that are still there.
    fn look(&self, places: &[At]) -> Vec<Line>;
    /// At most `most` flows, starting at a place in the table, and the place of the next one if there are more.
    fn flows_from(&self, from: TablePlace, most: usize) -> (Vec<Line>, Option<TablePlace>);
    /// Calls `take` with every flow and its rate. Returns the number of active flows whose rate is not known because there are too many.
    fn busy(&self, take: &mut dyn FnMut(RatedFlow<'_>)) -> u64;
    /// The events of flows that match, from now on.
    ///
    /// # Errors
    ///
    /// There are too many watchers already, or clients hold too much memory.
    fn watch(&self, filter: Filter) -> Result<Box<dyn Events>>;
    /// The latest events that look hostile, the oldest first. `None`: there are none because nothing is looked for.
    fn security_events(&self) -> Option<Vec<Arc<SecurityEvent>>>;
    /// Such events from now on. `None`: nothing is looked for.
    ///
    /// # Errors
    ///
    /// There are too many watchers already.
    fn watch_security(&self) -> Result<Option<EventWatch>>;
    /// Numbers of flows by several properties.
    fn flow_stats(&self) -> FlowStats;
    /// The number of series of each metric.
    fn series(&self) -> Vec<SeriesUse>;
    /// All values of the configuration.
    fn config(&self) -> Vec<ConfigValue>;
    /// Overrides the value of a key until the agent exits; `None` removes the override.
    ///
    /// # Errors
    ///
    /// The value is wrong, or takes a restart.
    fn set(&self, key: &'static Key, given: Option<Given>) -> Result<()>;
    /// Reads the configuration again.
    ///
    /// # Errors
    ///
    /// The configuration is wrong, and the old one stays; or the new one is not in force everywhere.
    fn reload(&self) -> Result<()>;
    /// Programs and maps in the kernel.
    fn objects(&self) -> Objects;
    /// The latest lines of the log, the oldest first.
    fn log(&self) -> Vec<String>;
    /// The page that Prometheus scrapes.
    fn metrics(&self) -> Body;
    /// Traces packets that match, for `time`.
    ///
    /// # Errors
    ///
    /// It is not possible, or a trace for another client runs.
    fn trace(&self, filter: PacketFilter, time: Duration) -> Result<Box<dyn PacketTrace>>;
    /// Ends the running trace, whoever started it.
    ///
    /// # Errors
    ///
    /// There is none.
    fn end_trace(&self) -> Result<()>;
}

/// A place in the flow table. A flow keeps its place; a flow that comes later may get one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablePlace {
    /// The shard of the table.
    pub shard: usize,
    /// The place in the shard.
    pub index: u32,
}

impl fmt::Display for TablePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shard, self.index)
    }
}

impl FromStr for TablePlace {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<TablePlace, ()> {
        let (shard, index) = text.split_once('.').ok_or(())?;
        Ok(TablePlace { shard: shard.parse().map_err(|_| ())?, index: index.parse().map_err(|_| ())? })
    }
}

/// The position of a flow, while it is in the table. It is small because there may be many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The shard of the table.
    pub shard: u16,
    /// Distinguishes the flow from those that had its place before or have it later, except once in 65,536 times.
    pub id: u16,
    /// The place in the shard.
    pub index: u32,
}

/// An event in the life of a flow.
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
    /// The next one; waits for it at most this long.
    fn next(&mut self, wait: Duration) -> Next;
    /// Events that were lost since the last call because they were not taken in time.
    fn lost(&mut self) -> u64;
}

/// The result of a wait for an event.
#[expect(clippy::large_enum_variant, reason = "handed on at once")]
pub enum Next {
    /// This event came.
    Event(Event),
    /// None came in time.
    Nothing,
    /// No more will come.
    End,
}

/// Packets as they come. Dropping it ends the trace.
pub trait PacketTrace {
    /// The next ones; waits for them at most this long.
    fn next(&mut self, wait: Duration) -> TraceNext;
    /// The counts so far.
    fn counts(&self) -> TraceCounts;
}

/// The result of a wait for packets.
pub enum TraceNext {
    /// These packets came.
    Packets(Vec<PacketLine>),
    /// None came in time.
    Nothing,
    /// The trace is over.
    End,
}

/// The state of the agent.
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
    /// Why the agent is not ready, or null if it is.
    pub unready: Option<String>,
    pub unhealthy: Option<String>,
    pub packets_per_s: f64,
    pub bytes_per_s: f64,
    pub flows_active: u64,
    pub flows_max: usize,
    pub flows_evicted: u64,
    /// Packets: seen + decapsulated = accounted + duplicate + ignored + lost, except for packets on their way.
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
    /// Keys whose new values need a restart.
    pub restart_needed: Vec<&'static str>,
    /// Values of the configuration that have no effect, with the reason.
    pub without_effect: Vec<String>,
    /// Times that somebody removed netmon's program from a hook, and how many of them it was put back at once.
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
    /// Time since the API server was last heard from, for the kind for which that is longest.
    pub age_s: f64,
    pub last_error: Option<String>,
    /// RFC 3339.
    pub last_error_at: Option<String>,
    pub kinds: Vec<NamesKind>,
}

/// A kind of objects that names are made of.
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
    /// `watched`, or the reason why it is not.
    pub status: &'static str,
    /// How it is attached.
    pub mode: Option<&'static str>,
    /// Why it could not be attached.
    pub error: Option<String>,
    /// The other end is in a pod or a container.
    pub faces_workload: bool,
    pub packets_in: u64,
    pub packets_out: u64,
    /// The share of the packets counted by the interface itself that was seen in the last minute, by hook; null without packets.
    pub coverage: [Option<f64>; 2],
    /// Why it runs programs other than those it should, if it does.
    pub outdated: Option<String>,
    /// Programs that see packets before netmon does.
    pub programs_before: Vec<String>,
}

/// Numbers of flows by several properties.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FlowStats {
    pub active: u64,
    pub max: usize,
    pub evicted: u64,
    /// Size of a flow in the table, without its times.
    pub flow_bytes: usize,
    pub by_protocol: BTreeMap<String, u64>,
    pub by_direction: BTreeMap<&'static str, u64>,
    pub by_state: BTreeMap<&'static str, u64>,
    pub by_status: BTreeMap<String, u64>,
    pub by_app: BTreeMap<&'static str, u64>,
    /// TCP connections that go on although only one end of them is seen.
    pub one_sided: u64,
    /// Flows that have ended since the start, by outcome.
    pub ended: BTreeMap<String, u64>,
}

/// Series of a metric.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SeriesUse {
    pub metric: &'static str,
    pub series: usize,
    /// Times that something was counted under "other" because there was no room.
    pub overflow: u64,
    /// Series that have left because nothing was counted in them any more.
    pub expired: u64,
    /// The number of values of each label, the largest first.
    pub labels: Vec<(String, usize)>,
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
    /// Size of the machine code; 0: the kernel interprets the program.
    pub compiled_bytes: u32,
    /// 0 unless the kernel counts (`kernel.bpf_stats_enabled`).
    pub runs: u64,
    pub run_ns: u64,
}

/// A map in the kernel.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MapObject {
    pub name: String,
    pub id: u32,
    /// The kernel's number for the type.
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
    /// It can be changed while the agent runs.
    pub live: bool,
    /// The value that is in force until a restart, if it differs.
    pub running: Option<String>,
}
