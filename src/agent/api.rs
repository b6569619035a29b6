//! The answers of the control socket and the debug server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use crossbeam_channel::RecvTimeoutError;

use super::board::{Interface, InterfaceStatus};
use super::lines::Lines;
use super::objects::objects;
use super::ranking::Ranking;
use super::reload::Tracing;
use super::served::Served;
use crate::bpf::{self, Tally};
use crate::clients::{Reason, Share};
use crate::config::{Given, Key};
use crate::control::{
    Api, At, ConfigValue, Event, Events, FlowStats, InterfaceState, Next, Objects, PacketTrace, RatedFlow, SeriesUse,
    Status, TablePlace,
};
use crate::filter::{Filter, PacketFilter};
use crate::flow::{Flow, protocol_name};
use crate::http::Body;
use crate::line::Line;
use crate::logging;
use crate::sinks::detect::{EventWatch, SecurityEvent};
use crate::sinks::metrics::{Build, MetricUsage, MetricsPage, Source, resident_bytes};
use crate::sinks::{Happened, WATCH_BYTES, Watched};

/// Time between the two readings that rates are computed from.
const RATE_TIME: Duration = Duration::from_millis(500);
/// Most flows that are looked at, and that are copied, under one lock.
const LOOKED: usize = 2048;
const COPIED: usize = 128;

/// The agent, as its operator sees it.
pub(super) struct AgentApi {
    served: Arc<Served>,
    ranking: Arc<Ranking>,
    page: Arc<MetricsPage>,
    started: SystemTime,
}

impl AgentApi {
    pub(super) fn new(served: Arc<Served>, ranking: Arc<Ranking>, page: Arc<MetricsPage>) -> AgentApi {
        AgentApi { served, ranking, page, started: SystemTime::now() }
    }

    fn lines(&self) -> Lines {
        Lines::new(&self.served.board, self.served.pipeline.workers())
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
                    // The feed has filtered only by what is known without the line.
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

impl Api for AgentApi {
    fn status(&self) -> Status {
        let served = &self.served;
        let (before, at) = (served.report().conservation().seen, Instant::now());
        std::thread::sleep(RATE_TIME);
        let report = served.report();
        let sums = report.conservation();
        let took = at.elapsed().as_secs_f64();
        let rate = |of: fn(Tally) -> u64| of(sums.seen).saturating_sub(of(before)) as f64 / took;
        let config = served.reload.in_force().get();
        let wanted = served.reload.settings();
        let sums_of_all = served.pipeline.sums();
        let reloads = served.reload.counts();
        let coverage = served.board.coverage();
        let interfaces = served.board.interfaces();
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
        let Build { version, commit, arch, node } = served.process.build().clone();
        Status {
            version,
            commit,
            arch,
            node,
            pid: std::process::id(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            started: humantime::format_rfc3339_seconds(self.started).to_string(),
            uptime_s: self.started.elapsed().unwrap_or_default().as_secs_f64(),
            workers: served.pipeline.workers(),
            sampling_rate: served.throttle.sampling_rate(),
            unready: served.unready(),
            unhealthy: served.unhealthy(),
            packets_per_s: rate(|tally| tally.packets),
            bytes_per_s: rate(|tally| tally.bytes),
            flows_active: served.pipeline.flow_count() as u64,
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
            cpu_limit_level: served.throttle.actions().cpu_level,
            series: served.pipeline.series().usage().iter().map(|usage| usage.lines).sum(),
            series_limit: served.pipeline.series().limit(),
            nat_translations: served.pipeline.translations().translations,
            names: served.names.as_ref().map(super::names::state),
            log_lines_held_back: logging::held_back(),
            config_reloads: reloads.taken,
            config_reload_failures: reloads.failed,
            restart_needed: Key::pending(&config, &wanted.config).map(|key| key.path).collect(),
            without_effect: wanted.without_effect(),
            hooks_lost: served.board.hooks().lost,
            hooks_restored: served.board.hooks().restored,
            interfaces: interfaces.values().map(state).collect(),
        }
    }

    fn flows(&self, filter: &Filter, take: &mut dyn FnMut(At, Line) -> bool) {
        let mut lines = self.lines();
        let pipeline = &self.served.pipeline;
        for number in 0..pipeline.workers() {
            let mut from = Some(0);
            while let Some(next) = from {
                let mut copied: Vec<(u32, Flow)> = Vec::new();
                // A worker waits until the flows that may pass are copied, not until they are sent.
                from = pipeline
                    .look(number, |table| {
                        let mut looked = 0;
                        table.places(next).find_map(|(index, flow)| {
                            if looked == LOOKED || copied.len() == COPIED {
                                return Some(index);
                            }
                            looked += 1;
                            if filter.may_match(&Line::early(flow, true)) {
                                copied.push((index, flow.clone()));
                            }
                            None
                        })
                    })
                    .flatten();
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
        let mut lines = self.lines();
        let mut found = Vec::with_capacity(places.len());
        for same in places.chunk_by(|a, b| a.shard == b.shard) {
            let number = usize::from(same[0].shard);
            let flows: Option<Vec<Flow>> = self.served.pipeline.look(number, |table| {
                let flow = |at: &At| {
                    let (index, flow) = table.places(at.index).next()?;
                    (index == at.index && flow.id() as u16 == at.id).then(|| flow.clone())
                };
                same.iter().filter_map(flow).collect()
            });
            found.extend(flows.iter().flatten().map(|flow| lines.line(number, flow)));
        }
        found
    }

    fn flows_from(&self, from: TablePlace, most: usize) -> (Vec<Line>, Option<TablePlace>) {
        let mut lines = self.lines();
        let mut taken = Vec::new();
        for number in from.shard..self.served.pipeline.workers() {
            let index = if number == from.shard { from.index } else { 0 };
            // One more than wanted shows whether there are more.
            let wanted = most + 1 - taken.len();
            let flows: Option<Vec<(u32, Flow)>> = self.served.pipeline.look(number, |table| {
                table.places(index).take(wanted).map(|(index, flow)| (index, flow.clone())).collect()
            });
            for (index, flow) in flows.into_iter().flatten() {
                if taken.len() == most {
                    return (taken, Some(TablePlace { shard: number, index }));
                }
                taken.push(lines.line(number, &flow));
            }
        }
        (taken, None)
    }

    fn busy(&self, take: &mut dyn FnMut(RatedFlow<'_>)) -> u64 {
        self.ranking.look(self.lines(), take)
    }

    fn watch(&self, filter: Filter) -> Result<Box<dyn Events>> {
        let clients = &self.served.clients;
        let Some(share) = clients.budget.take(WATCH_BYTES) else {
            clients.control.count(Reason::Memory);
            bail!("clients together hold all of the memory that they may: try again when others have ended");
        };
        let watched = self.served.pipeline.feed().watch(filter.clone())?;
        Ok(Box::new(Watch { lines: self.lines(), filter, watched, _share: share }))
    }

    fn security_events(&self) -> Option<Vec<Arc<SecurityEvent>>> {
        let detection = self.served.pipeline.detection();
        // What was told before it was switched off is still of interest.
        Some(detection.events()).filter(|events| detection.security().enabled || !events.is_empty())
    }

    fn watch_security(&self) -> Result<Option<EventWatch>> {
        let detection = self.served.pipeline.detection();
        detection.security().enabled.then(|| detection.watch()).transpose()
    }

    fn flow_stats(&self) -> FlowStats {
        let sums_of_all = self.served.pipeline.sums();
        let mut stats = FlowStats {
            max: self.served.reload.in_force().get().max_flows,
            evicted: sums_of_all.as_ref().map_or(0, |sums| sums.evicted()),
            flow_bytes: size_of::<Flow>(),
            ..FlowStats::default()
        };
        let pipeline = &self.served.pipeline;
        for number in 0..pipeline.workers() {
            // A page at a time, so that the worker waits for no more than that.
            let is_there = |page| pipeline.look(number, |table| stats_of(&mut stats, table.page(page))).flatten();
            (0..).map_while(is_there).for_each(drop);
        }
        for (outcome, count) in sums_of_all.iter().flat_map(|sums| sums.ended()) {
            *stats.ended.entry(outcome_name(outcome)).or_default() += count;
        }
        stats
    }

    fn series(&self) -> Vec<SeriesUse> {
        let shown = |usage: MetricUsage| {
            let MetricUsage { metric, lines, refused, expired, labels } = usage;
            SeriesUse { metric, series: lines, overflow: refused, expired, labels }
        };
        self.served.pipeline.series().usage().into_iter().map(shown).collect()
    }

    fn config(&self) -> Vec<ConfigValue> {
        let (settings, running) = (self.served.reload.settings(), self.served.reload.in_force().get());
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
        self.served.reload.set(key, given)
    }

    fn reload(&self) -> Result<()> {
        self.served.reload.reload()
    }

    fn objects(&self) -> Objects {
        objects(&self.served.reload)
    }

    fn log(&self) -> Vec<String> {
        logging::latest()
    }

    fn trace(&self, filter: PacketFilter, time: Duration) -> Result<Box<dyn PacketTrace>> {
        Ok(Box::new(Tracing::start(&self.served.reload, &self.served.board, filter, time)?))
    }

    fn end_trace(&self) -> Result<()> {
        self.served.reload.end_trace()
    }

    fn metrics(&self) -> Body {
        self.page.metrics().body
    }
}

/// Adds the flows of a page; `None` if there is no such page.
fn stats_of<'a>(stats: &mut FlowStats, page: Option<impl Iterator<Item = &'a Flow>>) -> Option<()> {
    for flow in page? {
        stats.active += 1;
        *stats.by_protocol.entry(protocol_name(flow.protocol).into_owned()).or_default() += 1;
        *stats.by_direction.entry(flow.direction.name()).or_default() += 1;
        *stats.by_state.entry(flow.state().name()).or_default() += 1;
        let status = flow.outcome.map_or("active".to_owned(), outcome_name);
        *stats.by_status.entry(status).or_default() += 1;
        *stats.by_app.entry(flow.app.map_or("", bpf::App::name)).or_default() += 1;
        stats.one_sided += u64::from(flow.is_one_sided());
    }
    Some(())
}

fn outcome_name(outcome: crate::flow::Outcome) -> String {
    match outcome.reason() {
        Some(reason) => format!("{}: {}", outcome.status().name(), reason.label()),
        None => outcome.status().name().to_owned(),
    }
}
