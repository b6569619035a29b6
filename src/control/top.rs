//! The flows, pairs of hosts or services that come first, by rate, round trip, failures and more. Pure, except for the clock of
//! `answer`.

mod answer;
mod named;

use std::cmp::{Ordering, Reverse};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use nix::time::{ClockId, clock_gettime};

use super::call::Call;
use super::refusal::bad;
use super::routes::{Whole, object};
use crate::bpf::App;
use crate::clients::Share;
use crate::filter::Filter;
use crate::flow::{Flow, Party, Rate, Reason};
use crate::line::Line;

pub use answer::{Order, RatedFlow, Row, Top, View};
use named::Named;

/// Rows by default.
const ROWS: usize = 50;
/// The largest limit.
const ROWS_MOST: usize = 1000;

const REASONS: [Reason; 5] =
    [Reason::Refused, Reason::Timeout, Reason::ResetByClient, Reason::ResetByServer, Reason::Unreachable];

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    flows: u64,
    failed: [u64; REASONS.len()],
    failed_ns: u64,
    start_ns: u64,
    bytes: u64,
    packets: u64,
    rate: Rate,
    rtts: u64,
    rtt_us: f64,
    retransmits: u64,
}

impl Sums {
    fn of(flow: &Flow, rate: Rate) -> Sums {
        let mut sums = Sums {
            flows: 1,
            start_ns: flow.first_ns,
            bytes: flow.sent.iter().map(|sent| sent.bytes).sum(),
            packets: flow.sent.iter().map(|sent| sent.packets).sum(),
            rate,
            ..Sums::default()
        };
        if let Some(reason) = flow.outcome.and_then(|outcome| outcome.reason())
            && let Some(place) = REASONS.iter().position(|known| *known == reason)
        {
            sums.failed[place] = 1;
            sums.failed_ns = flow.last_ns();
        }
        if let Some(details) = flow.details.as_deref() {
            sums.retransmits = details.troubles.iter().map(|troubles| u64::from(troubles.retransmits)).sum();
            if details.rtt.count > 0 {
                (sums.rtts, sums.rtt_us) = (1, details.rtt.last_ns as f64 / 1e3);
            }
        }
        sums
    }

    fn add(&mut self, other: &Sums) {
        self.flows += other.flows;
        self.failed.iter_mut().zip(other.failed).for_each(|(sum, more)| *sum += more);
        self.failed_ns = self.failed_ns.max(other.failed_ns);
        self.start_ns = self.start_ns.max(other.start_ns);
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.rate += other.rate;
        self.rtts += other.rtts;
        self.rtt_us += other.rtt_us;
        self.retransmits += other.retransmits;
    }

    fn failed(&self) -> BTreeMap<String, u64> {
        let counts = REASONS.iter().zip(self.failed).filter(|(_, count)| *count > 0);
        counts.map(|(reason, count)| (reason.label().to_owned(), count)).collect()
    }

    fn rtt_us(&self) -> Option<f64> {
        (self.rtts > 0).then(|| self.rtt_us / self.rtts as f64)
    }

    fn rank(&self, order: Order, reverse: bool) -> Rank {
        let failed: u64 = self.failed.iter().sum();
        let first = match order {
            Order::Rate => Some(self.rate.bytes_per_s),
            Order::Packets => Some(self.rate.packets_per_s),
            Order::Bytes => Some(self.bytes as f64),
            Order::Rtt => self.rtt_us(),
            Order::Failures => Some(failed as f64),
            Order::Retransmits => Some(self.retransmits as f64),
            Order::Flows => Some(self.flows as f64),
            Order::Start => Some(self.start_ns as f64),
        };
        let then = if order == Order::Failures && failed > 0 { self.failed_ns as f64 } else { self.rate.bytes_per_s };
        // Unknown values come last in either order.
        let first = first.map_or(f64::NEG_INFINITY, |first| if reverse { -first } else { first });
        Rank(first, then)
    }

    fn row(&self, app: Option<&str>, named: Named, flow: Option<Line>) -> Row<Line> {
        Row {
            client: named.client,
            server: named.server,
            protocol: named.protocol,
            app_protocol: app.map(str::to_owned),
            flows: self.flows,
            failed: self.failed(),
            bytes_per_s: self.rate.bytes_per_s,
            packets_per_s: self.rate.packets_per_s,
            bytes: self.bytes,
            packets: self.packets,
            rtt_us: self.rtt_us(),
            retransmits: self.retransmits,
            filter: named.filter,
            flow,
        }
    }
}

/// The greater comes first.
#[derive(Clone, Copy, Debug)]
struct Rank(f64, f64);

impl Rank {
    fn compare(&self, other: &Rank) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.total_cmp(&other.1))
    }
}

struct Ranked {
    rank: Rank,
    sums: Sums,
    line: Line,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.rank.compare(&other.rank).then_with(|| other.line.id.cmp(&self.line.id))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// The key of a group before names are looked up: client, server, the server's port, the protocol, and the identities of both ends,
/// because one address may belong to several, by its ports.
type Group = (Option<IpAddr>, IpAddr, u16, u8, [usize; 2]);

/// A number that is unique among the parties that exist.
fn identity(party: Option<&Arc<Party>>) -> usize {
    party.map_or(0, |party| Arc::as_ptr(party) as usize)
}

/// Bytes that a group takes, before it has a name and with it.
const GROUP_BYTES: usize = 2 * size_of::<(Group, Sums, Flow)>();
const NAMED_BYTES: usize = 1024;

/// There are more groups than clients may hold.
struct NoRoom;

/// Puts flows in order.
struct Ranking {
    view: View,
    order: Order,
    reverse: bool,
    limit: usize,
    filter: Option<Filter>,
    all: Sums,
    first: BinaryHeap<Reverse<Ranked>>,
    /// The sums of each group, and one of its flows.
    groups: HashMap<Group, (Sums, Flow)>,
    /// The memory that groups take.
    share: Share,
    room: bool,
}

impl Ranking {
    /// Only flows that match the filter are ranked, if there is one.
    fn new(view: View, order: Order, reverse: bool, limit: usize, filter: Option<Filter>, share: Share) -> Ranking {
        let (first, groups) = (BinaryHeap::new(), HashMap::new());
        Ranking { view, order, reverse, limit, filter, all: Sums::default(), first, groups, share, room: true }
    }

    /// Takes a flow.
    fn add(&mut self, busy: RatedFlow<'_>) {
        let RatedFlow { flow, rate, line } = busy;
        let mut made = None;
        if let Some(filter) = &self.filter {
            if !filter.may_match(&Line::early(flow, true)) {
                return;
            }
            let line = line(flow);
            if !filter.matches(&line) {
                return;
            }
            made = Some(line);
        }
        let sums = Sums::of(flow, rate);
        self.all.add(&sums);
        let client = usize::from(flow.client & 1);
        let [client, server] = [client, 1 - client].map(|end| flow.endpoint(end));
        let group = match self.view {
            View::Flows => return self.rank(sums, || made.unwrap_or_else(|| line(flow))),
            View::Pairs => {
                let known_as = [flow.client_party(), flow.server_party()].map(identity);
                (Some(client.ip(flow.v6())), server.ip(flow.v6()), 0, 0, known_as)
            }
            View::Services => {
                let known_as = [0, identity(flow.server_party())];
                (None, server.ip(flow.v6()), server.port, flow.protocol, known_as)
            }
        };
        let (sum, one) = match self.groups.entry(group) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.room &= self.share.grow(GROUP_BYTES);
                if !self.room {
                    return;
                }
                let mut one = flow.clone();
                one.details = None;
                new.insert((Sums::default(), one))
            }
        };
        sum.add(&sums);
        // The protocol of a group is that of any flow whose protocol is known.
        one.app = flow.app.or(one.app);
    }

    fn rank(&mut self, sums: Sums, line: impl FnOnce() -> Line) {
        let rank = sums.rank(self.order, self.reverse);
        if self.first.len() >= self.limit {
            if !self.first.peek().is_some_and(|Reverse(last)| rank.compare(&last.rank).is_gt()) {
                return;
            }
            self.first.pop();
        }
        self.first.push(Reverse(Ranked { rank, sums, line: line() }));
    }

    /// The answer, without the time that it took.
    fn finish(mut self) -> Result<Top<Line>, NoRoom> {
        let view = self.view;
        let (rows, rows_total) = match view {
            View::Flows => {
                let rows = self.first.into_sorted_vec().into_iter().map(|Reverse(Ranked { sums, line, .. })| {
                    let named = view.named(&line);
                    sums.row(line.app_protocol, named, Some(line))
                });
                (rows.collect(), self.all.flows as usize)
            }
            View::Pairs | View::Services => {
                // Several addresses may have one name.
                let mut named: HashMap<_, (Sums, Option<&'static str>, Named)> = HashMap::new();
                for (sums, flow) in self.groups.into_values() {
                    let name = view.named(&Line::early(&flow, true));
                    let key = (name.client.clone(), name.server.clone(), name.protocol.clone());
                    self.room &= self.share.grow(NAMED_BYTES);
                    if !self.room {
                        return Err(NoRoom);
                    }
                    let app = flow.app.map(App::name);
                    named.entry(key).or_insert_with(|| (Sums::default(), app, name)).0.add(&sums);
                }
                let total = named.len();
                let ranked = |group: (Sums, _, Named)| (group.0.rank(self.order, self.reverse), group);
                let mut groups: Vec<_> = named.into_values().map(ranked).collect();
                groups.sort_by(|(a, one), (b, other)| {
                    let name = |named: &Named| (named.server.clone(), named.client.clone());
                    b.compare(a).then_with(|| name(&one.2).cmp(&name(&other.2)))
                });
                groups.truncate(self.limit);
                let rows = groups.into_iter().map(|(_, (sums, app, named))| sums.row(app, named, None));
                (rows.collect(), total)
            }
        };
        if !self.room {
            return Err(NoRoom);
        }
        Ok(Top {
            took_ms: 0.0,
            flows: self.all.flows,
            bytes_per_s: self.all.rate.bytes_per_s,
            packets_per_s: self.all.rate.packets_per_s,
            failed: self.all.failed(),
            rates_unknown: 0,
            rows_total,
            rows,
        })
    }
}

/// Answers `/v1/top`.
pub(super) fn answer(call: &Call) -> Whole {
    let started = cpu_time();
    let filter = call.parameters.contains_key("filter").then(|| call.filter()).transpose()?;
    let limit = call.number("limit")?.unwrap_or(ROWS);
    if limit > ROWS_MOST {
        return Err(bad(format!("limit={limit}; at most {ROWS_MOST}")));
    }
    let reverse = call.switch("reverse")?;
    let share = call.held.take(0)?;
    let mut ranking = Ranking::new(call.choice("by")?, call.choice("sort")?, reverse, limit, filter, share);
    let unknown = call.api.busy(&mut |busy| ranking.add(busy));
    let mut top = ranking.finish().map_err(|NoRoom| call.held.no_room())?;
    top.rates_unknown = unknown;
    top.took_ms = cpu_time().saturating_sub(started).as_secs_f64() * 1e3;
    object(&top)
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests;
