//! Series by who the ends are, before and after they have names.

use std::collections::BTreeMap;

use super::*;
use crate::flow::{Directory, Flow, FlowEvent, Named, Parties, Party, Sink};

const SECOND: u64 = 1_000_000_000;

/// Sums of a worker that learns names.
struct Worker {
    table: Table<Mark>,
    observer: NamedAggregates,
    now_s: u64,
}

struct NamedAggregates {
    aggregates: Aggregates,
    /// By last byte of the address; those that are missing may come.
    known: BTreeMap<u8, Arc<Party>>,
    /// Who all others are.
    others: Option<Arc<Party>>,
}

impl Directory for NamedAggregates {
    fn identify(&mut self, flow: &Flow) -> Named {
        let parties: Parties =
            flow.key().ends.map(|end| self.known.get(&end.address[3]).or(self.others.as_ref()).cloned());
        let awaited = parties.iter().any(Option::is_none);
        Named { awaited, hold: awaited, parties: Some(Arc::new(parties)) }
    }
}

impl Sink for NamedAggregates {
    type Mark = Mark;

    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut Mark) {
        self.aggregates.handle(event, flow, mark);
    }
}

fn party(workload: &str) -> Arc<Party> {
    Arc::new(Party { namespace: Some("shop".into()), workload: Some(workload.into()), ..Party::default() })
}

fn network(name: &str) -> Arc<Party> {
    Arc::new(Party { name: Some(name.into()), ..Party::default() })
}

impl Worker {
    fn new(index: &Arc<SeriesIndex>, known: &[(u8, Arc<Party>)]) -> Worker {
        let timeout = Duration::from_secs(30);
        let limits = TableLimits { max_flows: 10_000, flow_timeout: timeout, connect_timeout: timeout, max_age: None };
        let aggregates = Aggregates::new(Arc::clone(index));
        let known = known.iter().cloned().collect();
        Worker { table: Table::new(limits, 0), observer: NamedAggregates { aggregates, known, others: None }, now_s: 0 }
    }

    /// From 10.0.0.`client` to 10.0.0.9.
    fn sends(&mut self, client: u8, at_s: u64) {
        self.sends_with(client, at_s, Facts::default());
    }

    fn sends_with(&mut self, client: u8, at_s: u64, facts: Facts) {
        let (first_ns, last_ns) = (at_s * SECOND, at_s * SECOND);
        let record = Record { first_ns, last_ns, ..record(&format!("10.0.0.{client}"), 1, facts) };
        self.table.merge(&record, &mut self.observer);
        self.now_s = self.now_s.max(at_s);
    }

    /// What came is settled.
    fn settle(&mut self) {
        self.table.expire((self.now_s + 4) * SECOND, &mut self.observer);
    }

    fn learns(&mut self, host: u8, party: Arc<Party>, at_s: u64) {
        self.observer.known.insert(host, party);
        self.table.name_again(true, at_s * SECOND, &mut self.observer);
    }

    fn page(&mut self, index: &Arc<SeriesIndex>) -> String {
        self.settle();
        shown(index, self.observer.aggregates.sums().clone())
    }
}

fn packets(page: &str, labels: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with("netmon_packets_total{") && line.contains(labels))?;
    line.rsplit_once(' ').unwrap().1.parse().ok()
}

#[test]
fn what_comes_before_the_name_is_counted_under_it() {
    let index = index(1000, "1", Labels::default());
    let mut worker = Worker::new(&index, &[(9, party("web"))]);
    worker.sends_with(1, 1, with(took(Measure::Connect, MS), |facts| facts.retransmits = 2));
    worker.sends(1, 2);
    let page = worker.page(&index);
    assert_eq!((total(&page, "netmon_packets_total"), total(&page, "netmon_latency_seconds_count")), (0.0, 0.0));
    let accounted = worker.observer.aggregates.sums().interfaces()[&1].accounted;
    assert_eq!(accounted.packets, 2, "the books do not wait");
    worker.learns(1, party("client"), 3);
    worker.sends(1, 4);
    let page = worker.page(&index);
    let ends = "src_ip=\"10.0.0.1\",src_namespace=\"shop\",src_workload=\"client\",dst_ip=\"10.0.0.9\",\
                dst_namespace=\"shop\",dst_workload=\"web\"";
    assert_eq!((packets(&page, ends), total(&page, "netmon_packets_total")), (Some(3.0), 3.0), "{page}");
    let pair = "src_workload=\"client\",dst_service=\"\",dst_workload=\"web\",dst_namespace=\"shop\"";
    assert_eq!(value(&page, &format!("netmon_latency_seconds_count{{{pair}}}")), 1.0);
    assert_eq!(value(&page, &format!("netmon_retransmits_total{{{pair}}}")), 2.0);
    assert_eq!((worker.table.unnamed(), value(&page, "netmon_names_missed_total")), (0, 0.0));
}

#[test]
fn who_gets_no_name_in_time_is_counted_without() {
    let index = index(1000, "1", Labels::default());
    let mut worker = Worker::new(&index, &[(9, party("web"))]);
    worker.sends(1, 1);
    worker.table.name_again(false, 30 * SECOND, &mut worker.observer);
    assert_eq!(total(&worker.page(&index), "netmon_packets_total"), 0.0);
    worker.table.name_again(false, 32 * SECOND, &mut worker.observer);
    let page = worker.page(&index);
    let unnamed = "src_ip=\"10.0.0.1\",dst_ip=\"10.0.0.9\",dst_namespace=\"shop\"";
    assert_eq!((packets(&page, unnamed), value(&page, "netmon_names_missed_total")), (Some(1.0), 1.0), "{page}");
    worker.sends(1, 33);
    worker.learns(1, party("late"), 34);
    worker.sends(1, 35);
    let page = worker.page(&index);
    assert_eq!((packets(&page, unnamed), packets(&page, "src_workload=\"late\"")), (Some(2.0), Some(1.0)));
}

#[test]
fn nothing_is_lost_of_flows_that_leave_before_they_have_names() {
    let index = index(1000, "1", Labels::default());
    let mut worker = Worker::new(&index, &[]);
    (1..=8).for_each(|client| worker.sends(client, 1));
    worker.table.bound(3, &mut worker.observer);
    assert_eq!(total(&worker.page(&index), "netmon_packets_total"), 5.0);
    worker.table.name_again(false, 100 * SECOND, &mut worker.observer);
    let page = worker.page(&index);
    assert_eq!((total(&page, "netmon_packets_total"), total(&page, "netmon_names_missed_total")), (8.0, 8.0));
}

#[test]
fn idle_series_leave_and_totals_stay_exact() {
    let index = index(1000, "1", Labels::default());
    let mut workers = [1, 2].map(|_| Worker::new(&index, &[(1, party("a")), (2, party("b")), (9, party("web"))]));
    workers[0].sends_with(1, 1, took(Measure::Connect, MS));
    workers[1].sends(2, 1);
    workers[1].sends_with(2, 200, took(Measure::Connect, MS));
    let expire = |workers: &mut [Worker; 2], since_s: u64| {
        let mut all: Vec<_> = workers.iter_mut().map(|worker| &mut worker.observer.aggregates).collect();
        Aggregates::expire_idle(&mut all, since_s * SECOND);
    };
    let page = |workers: &mut [Worker; 2]| {
        workers.iter_mut().for_each(Worker::settle);
        let mut sums = workers[0].observer.aggregates.sums().clone();
        sums.add(workers[1].observer.aggregates.sums());
        shown(&index, sums)
    };
    workers.iter_mut().for_each(Worker::settle);
    expire(&mut workers, 100);
    let before = page(&mut workers);
    assert_eq!(total(&before, "netmon_packets_total"), 3.0, "both flows may go on");
    assert_eq!(total(&before, "netmon_latency_seconds_count"), 1.0, "times do not wait for flows");
    workers.iter_mut().for_each(|worker| worker.table.expire(150 * SECOND, &mut worker.observer));
    workers.iter_mut().for_each(|worker| worker.table.expire(160 * SECOND, &mut worker.observer));
    expire(&mut workers, 100);
    let after = page(&mut workers);
    assert_eq!((packets(&after, "workload=\"a\""), packets(&after, "workload=\"b\"")), (None, Some(2.0)), "{after}");
    assert_eq!(value(&after, "netmon_packets_expired_total"), 1.0);
    let metric = "{metric=\"netmon_packets_total\"}";
    assert_eq!(
        ["series", "series_expired_total"].map(|name| value(&after, &format!("netmon_{name}{metric}"))),
        [1.0; 2]
    );
    // Its number goes to another, who begins at nothing.
    workers[0].sends(1, 300);
    workers[1].learns(3, party("c"), 300);
    workers[1].sends(3, 300);
    let again = page(&mut workers);
    assert_eq!(["a", "b", "c"].map(|w| packets(&again, &format!("workload=\"{w}\"")).unwrap()), [1.0, 2.0, 1.0]);
}

#[test]
fn labels_that_are_dropped_aggregate_also_while_packets_flow() {
    let index = index(1000, "1", Labels::default());
    let known: Vec<_> = (1..=4).map(|host| (host, party("client"))).chain([(9, party("web"))]).collect();
    let mut worker = Worker::new(&index, &known);
    (1..=4).for_each(|client| worker.sends(client, 1));
    assert_eq!(worker.page(&index).lines().filter(|line| line.starts_with("netmon_packets_total{")).count(), 4);
    let labels = Labels::new(&["src_workload".to_owned(), "dst_workload".to_owned()]).unwrap();
    Aggregates::renew_labels(
        &mut [&mut worker.observer.aggregates],
        Identification { labels, grouped: true, ..Identification::default() },
    );
    let Worker { table, observer, .. } = &mut worker;
    table.visit(|flow, mark| observer.aggregates.recount(flow, mark));
    (1..=4).for_each(|client| worker.sends(client, 2));
    let page = worker.page(&index);
    let series =
        "protocol=\"tcp\",direction=\"ingress\",src_workload=\"client\",dst_workload=\"web\",app_protocol=\"\"";
    assert_eq!(value(&page, &format!("netmon_packets_total{{{series}}}")), 4.0, "{page}");
    assert_eq!((total(&page, "netmon_packets_total"), value(&page, "netmon_packets_expired_total")), (4.0, 4.0));
}

/// 100,000 addresses outside try a port each.
#[test]
fn a_scan_from_outside_leaves_the_page_as_it_is() {
    const ADDRESSES: u32 = 100_000;
    for (grouped, limit) in [(true, 20_000), (false, 1_000)] {
        let buckets = Buckets::new(&["1"]).unwrap();
        let index = Arc::new(SeriesIndex::new(limit, buckets, Identification { grouped, ..Identification::default() }));
        let mut worker = Worker::new(&index, &[(9, party("web"))]);
        worker.observer.others = Some(network("external"));
        worker.sends(9, 1);
        let before = worker.page(&index);
        for number in 0..ADDRESSES {
            let mut record = record("0.0.0.0", number as u16, took(Measure::HandshakeServer, MS));
            record.source.address[..4].copy_from_slice(&(0xc633_0000 + (number << 8)).to_be_bytes());
            worker.table.merge(&record, &mut worker.observer);
        }
        let page = worker.page(&index);
        assert_eq!(total(&page, "netmon_packets_total"), f64::from(ADDRESSES) + 1.0, "totals are exact");
        assert_eq!(total(&page, "netmon_handshake_seconds_count"), f64::from(ADDRESSES));
        let series = total(&page, "netmon_series");
        if grouped {
            assert!(page.lines().count() < before.lines().count() + 20 && series < 20.0, "{page}");
        } else {
            assert!(series <= limit as f64, "{series}");
        }
    }
}
