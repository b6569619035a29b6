//! What the control socket is answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use crossbeam_channel::RecvTimeoutError;

use super::objects::objects;
use super::shard::lock;
use super::shared::Shared;
use super::top;
use crate::bpf::{self, Clock, Tally};
use crate::clients::{Reason, Share};
use crate::config::{Given, Key};
use crate::control::{
    Api, At, Busy, ConfigValue, Event, Events, FlowStats, InterfaceState, Next, Objects, PacketTrace, Place, SeriesUse,
    Status,
};
use crate::filter::{Filter, PacketFilter};
use crate::flow::{Flow, protocol_name};
use crate::http::Body;
use crate::logging;
use crate::metrics::{
    Build, Interface, InterfaceStatus, MetricSpread, MetricsPage, SeriesIndex, Source, resident_bytes,
};
use crate::output::{Line, Naming};
use crate::sinks::{Happened, WATCH_BYTES, Watched};

/// Between the two looks that rates are made of.
const RATE_TIME: Duration = Duration::from_millis(500);
/// Flows that are looked at, and copied, under one lock.
const LOOKED: usize = 2048;
const COPIED: usize = 128;

/// The agent, as its operator sees it.
pub(super) struct Operated {
    shared: Arc<Shared>,
    page: Arc<MetricsPage>,
    index: Arc<SeriesIndex>,
    build: Build,
    started: SystemTime,
}

impl Operated {
    pub(super) fn new(shared: Arc<Shared>, page: Arc<MetricsPage>, index: Arc<SeriesIndex>, build: Build) -> Operated {
        Operated { shared, page, index, build, started: SystemTime::now() }
    }
}

/// Makes lines of flows.
pub(super) struct Lines {
    shared: Arc<Shared>,
    names: BTreeMap<u32, String>,
    clock_offset_ns: i64,
    tick_ns: u64,
}

impl Lines {
    pub(super) fn new(shared: &Arc<Shared>) -> Lines {
        let names = shared.interfaces().into_iter().map(|(index, interface)| (index, interface.name)).collect();
        // It is known wherever the programs run.
        let tick_ns = Clock::kernel_tick().map_or(1_000_000, |tick| tick.as_nanos() as u64);
        Lines { shared: Arc::clone(shared), names, clock_offset_ns: Clock::offset_to_1970(), tick_ns }
    }

    pub(super) fn line(&mut self, shard: usize, flow: &Flow) -> Line {
        let first = if flow.from_client().ifindex != 0 { flow.from_client() } else { flow.from_server() };
        let interface = self.names.get(&first.ifindex).cloned().or_else(|| {
            let name = self.shared.name_of(first.ifindex)?;
            self.names.insert(first.ifindex, name.clone());
            Some(name)
        });
        let (clock_offset_ns, tick_ns) = (self.clock_offset_ns, self.tick_ns);
        let naming = Naming { clock_offset_ns, tick_ns, interface, directions: true };
        let id = u64::from(flow.id()) * self.shared.workers() as u64 + shard as u64;
        Line::new(id, flow, &naming)
    }
}

struct Watch {
    lines: Lines,
    filter: Filter,
    watched: Watched,
    _share: Share,
}

impl Events for Watch {
    fn next(&mut self, wait: Duration) -> Next {
        let end = Instant::now() + wait;
        loop {
            match self.watched.events.recv_deadline(end) {
                Ok(Happened { event, shard, flow }) => {
                    let flow = self.lines.line(shard, &flow);
                    // What could be told without the line was.
                    if self.filter.matches(&flow) {
                        return Next::Event(Event { event, flow });
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Next::Nothing,
                Err(RecvTimeoutError::Disconnected) => return Next::End,
            }
        }
    }

    fn lost(&mut self) -> u64 {
        self.watched.lost()
    }
}

impl Api for Operated {
    fn status(&self) -> Status {
        let shared = &self.shared;
        let (before, at) = (shared.report().conservation().seen, Instant::now());
        std::thread::sleep(RATE_TIME);
        let report = shared.report();
        let sums = report.conservation();
        let took = at.elapsed().as_secs_f64();
        let rate = |of: fn(Tally) -> u64| of(sums.seen).saturating_sub(of(before)) as f64 / took;
        let config = shared.live.running();
        let wanted = shared.live.settings();
        let sums_of_all = shared.sums();
        let reloads = shared.live.reloads();
        let coverage = shared.coverage();
        let interfaces = shared.interfaces();
        let state = |interface: &Interface| {
            let books = report.books.get(&interface.index).copied().unwrap_or_default();
            let watched = matches!(interface.status, InterfaceStatus::Watched(_));
            InterfaceState {
                name: interface.name.clone(),
                ifindex: interface.index,
                kind: interface.kind.clone(),
                status: interface.status.name(),
                mode: match &interface.status {
                    InterfaceStatus::Watched(mode) => Some(mode.name()),
                    _ => None,
                },
                error: match &interface.status {
                    InterfaceStatus::Failed(error) => Some(error.clone()),
                    _ => None,
                },
                faces_workload: interface.workload,
                packets_in: books.ingress.packets,
                packets_out: books.egress.packets,
                coverage: match coverage.get(&interface.index).filter(|_| watched) {
                    Some(covered) => covered.map(|hook| hook.lately.ratio()),
                    None => [None; 2],
                },
                outdated: interface.outdated.clone(),
                programs_before: interface.before.iter().flatten().cloned().collect(),
            }
        };
        Status {
            version: self.build.version,
            commit: self.build.commit,
            arch: self.build.arch,
            node: self.build.node.clone(),
            pid: std::process::id(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            started: humantime::format_rfc3339_seconds(self.started).to_string(),
            uptime_s: self.started.elapsed().unwrap_or_default().as_secs_f64(),
            workers: shared.workers(),
            sampling_rate: shared.live.sampler.rate(),
            unready: shared.unready(),
            unhealthy: shared.unhealthy(),
            packets_per_s: rate(|tally| tally.packets),
            bytes_per_s: rate(|tally| tally.bytes),
            flows_active: shared.flow_count() as u64,
            flows_max: config.max_flows,
            flows_evicted: sums_of_all.as_ref().map_or(0, |sums| sums.evicted()),
            packets: BTreeMap::from([
                ("seen", sums.seen.packets),
                ("decapsulated", sums.decapsulated.packets),
                ("accounted", sums.accounted.packets),
                ("duplicate", sums.duplicate.packets),
                ("ignored", sums.ignored.packets),
                ("lost", sums.lost.packets),
            ]),
            records: sums_of_all.as_ref().map_or(0, |sums| sums.records()),
            records_lost: report.records.lost,
            memory_bytes: resident_bytes().unwrap_or_default(),
            memory_limit_bytes: config.memory_limit,
            cpu_limit_milli: config.cpu_limit_milli,
            cpu_limit_level: shared.throttle.cpu_level(),
            series: self.index.spread().iter().map(|spread| spread.lines).sum(),
            series_limit: self.index.limit(),
            nat_translations: shared.nat().counts().translations,
            names: shared.reading.as_ref().map(super::names::state),
            log_lines_held_back: logging::held_back(),
            config_reloads: reloads.taken,
            config_reload_failures: reloads.failed,
            restart_needed: Key::pending(&config, &wanted.config).map(|key| key.path).collect(),
            without_effect: wanted.without_effect(),
            hooks_lost: shared.upkept.counts().lost,
            hooks_restored: shared.upkept.counts().restored,
            interfaces: interfaces.values().map(state).collect(),
        }
    }

    fn flows(&self, filter: &Filter, take: &mut dyn FnMut(At, Line) -> bool) {
        let mut lines = Lines::new(&self.shared);
        for (number, shard) in self.shared.shards().iter().enumerate() {
            let mut from = Some(0);
            while let Some(next) = from {
                let mut copied: Vec<(u32, Flow)> = Vec::new();
                // A worker waits for a copy of those that may pass, not for what becomes of it.
                from = {
                    let shard = lock(shard);
                    let mut looked = 0;
                    shard.table.places(next).find_map(|(index, flow)| {
                        if looked == LOOKED || copied.len() == COPIED {
                            return Some(index);
                        }
                        looked += 1;
                        if filter.may_match(&Line::early(flow, true)) {
                            copied.push((index, flow.clone()));
                        }
                        None
                    })
                };
                for (index, flow) in copied {
                    let at = At { shard: number as u16, id: flow.id() as u16, index };
                    let line = lines.line(number, &flow);
                    if filter.matches(&line) && !take(at, line) {
                        return;
                    }
                }
            }
        }
    }

    fn look(&self, places: &[At]) -> Vec<Line> {
        let mut places = places.to_vec();
        places.sort_unstable();
        let mut lines = Lines::new(&self.shared);
        let mut found = Vec::with_capacity(places.len());
        for same in places.chunk_by(|a, b| a.shard == b.shard) {
            let number = usize::from(same[0].shard);
            let Some(shard) = self.shared.shards().get(number) else { continue };
            let flows: Vec<Flow> = {
                let shard = lock(shard);
                let flow = |at: &At| {
                    let (index, flow) = shard.table.places(at.index).next()?;
                    (index == at.index && flow.id() as u16 == at.id).then(|| flow.clone())
                };
                same.iter().filter_map(flow).collect()
            };
            found.extend(flows.iter().map(|flow| lines.line(number, flow)));
        }
        found
    }

    fn flows_from(&self, from: Place, most: usize) -> (Vec<Line>, Option<Place>) {
        let mut lines = Lines::new(&self.shared);
        let mut taken = Vec::new();
        for (number, shard) in self.shared.shards().iter().enumerate().skip(from.shard) {
            let index = if number == from.shard { from.index } else { 0 };
            // One more shows that there are more.
            let wanted = most + 1 - taken.len();
            let flows: Vec<(u32, Flow)> = {
                let shard = lock(shard);
                shard.table.places(index).take(wanted).map(|(index, flow)| (index, flow.clone())).collect()
            };
            for (index, flow) in flows {
                if taken.len() == most {
                    return (taken, Some(Place { shard: number, index }));
                }
                taken.push(lines.line(number, &flow));
            }
        }
        (taken, None)
    }

    fn busy(&self, take: &mut dyn FnMut(Busy<'_>)) -> u64 {
        top::busy(&self.shared, take)
    }

    fn watch(&self, filter: Filter) -> Result<Box<dyn Events>> {
        let clients = &self.shared.clients;
        let Some(share) = clients.budget.take(WATCH_BYTES) else {
            clients.control.count(Reason::Memory);
            bail!("clients hold all of the memory that they may together: come again when others have ended");
        };
        let watched = self.shared.feed.watch(filter.clone())?;
        Ok(Box::new(Watch { lines: Lines::new(&self.shared), filter, watched, _share: share }))
    }

    fn flow_stats(&self) -> FlowStats {
        let sums_of_all = self.shared.sums();
        let mut stats = FlowStats {
            max: self.shared.live.running().max_flows,
            evicted: sums_of_all.as_ref().map_or(0, |sums| sums.evicted()),
            flow_bytes: size_of::<Flow>(),
            ..FlowStats::default()
        };
        for shard in self.shared.shards() {
            for page in 0.. {
                let shard = lock(shard);
                let Some(flows) = shard.table.page(page) else { break };
                for flow in flows {
                    stats.active += 1;
                    *stats.by_protocol.entry(protocol_name(flow.key.protocol).into_owned()).or_default() += 1;
                    *stats.by_direction.entry(flow.direction.name()).or_default() += 1;
                    *stats.by_state.entry(flow.state().name()).or_default() += 1;
                    let status = flow.outcome.map_or("active".to_owned(), outcome_name);
                    *stats.by_status.entry(status).or_default() += 1;
                    *stats.by_app.entry(flow.app.map_or("", bpf::App::name)).or_default() += 1;
                }
            }
        }
        for (outcome, count) in sums_of_all.iter().flat_map(|sums| sums.ended()) {
            *stats.ended.entry(outcome_name(outcome)).or_default() += count;
        }
        stats
    }

    fn series(&self) -> Vec<SeriesUse> {
        let use_of = |spread: MetricSpread| SeriesUse {
            metric: spread.metric,
            series: spread.lines,
            overflow: spread.refused,
            expired: spread.expired,
            labels: spread.labels,
        };
        self.index.spread().into_iter().map(use_of).collect()
    }

    fn config(&self) -> Vec<ConfigValue> {
        let (settings, running) = (self.shared.live.settings(), self.shared.live.running());
        let pending: Vec<&str> = Key::pending(&running, &settings.config).map(|key| key.path).collect();
        let value = |key: &'static Key| {
            let (value, origin) = settings.value(key);
            ConfigValue {
                key: key.path,
                value,
                origin: origin.to_string(),
                live: key.live,
                running: pending.contains(&key.path).then(|| key.shown(&running)),
            }
        };
        Key::all().map(value).collect()
    }

    fn set(&self, key: &'static Key, given: Option<Given>) -> Result<()> {
        self.shared.set(key, given)
    }

    fn reload(&self) -> Result<()> {
        self.shared.reload()
    }

    fn objects(&self) -> Objects {
        objects(&self.shared)
    }

    fn log(&self) -> Vec<String> {
        logging::latest()
    }

    fn trace(&self, filter: PacketFilter, time: Duration) -> Result<Box<dyn PacketTrace>> {
        Ok(Box::new(self.shared.start_trace(filter, time)?))
    }

    fn end_trace(&self) -> Result<()> {
        self.shared.end_trace()
    }

    fn metrics(&self) -> Body {
        self.page.metrics().body
    }
}

fn outcome_name(outcome: crate::flow::Outcome) -> String {
    match outcome.reason() {
        Some(reason) => format!("{}: {}", outcome.status().name(), reason.label()),
        None => outcome.status().name().to_owned(),
    }
}
