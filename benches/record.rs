//! The cost of a record: the program writes it, a worker reads it and merges it into the flow table and the sums.

use anyhow::{Result, ensure};
use netmon::config::Config;

use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::{CHUNK, Subject, pin, whole};
use crate::support::vary::Order;

const BUDGET_NS: f64 = 400.0;
const P99_NS: f64 = 5000.0;

/// Samples of one scenario, one per round.
#[derive(Default)]
struct Samples {
    user: Vec<f64>,
    kernel: Vec<f64>,
    p99: Vec<f64>,
}

impl Samples {
    fn add(&mut self, subject: &mut Subject, packets: u32) -> Result<()> {
        let cost = subject.run(packets, CHUNK, || Ok(()))?;
        ensure!(subject.lost() == 0, "a ring overflowed, although the records should fit");
        self.user.push(cost.user / cost.records.max(1.0));
        self.kernel.push(cost.kernel / f64::from(packets));
        self.p99.push(subject.p99());
        Ok(())
    }
}

pub fn run(report: &mut Report) -> Result<()> {
    pin()?;
    let config = Config::default();
    let million = whole(if report.quick { 200_000 } else { 1_000_000 }, CHUNK);
    let quarter = whole(million / 4, CHUNK);
    let [mut hits, mut new, mut full, mut known, mut crowd] = [(); 5].map(|()| Samples::default());
    for _ in 0..report.rounds(5) {
        let mut subject = Subject::new(&config)?;
        // At most one table entry, and no records: the cost of a packet that writes none.
        subject.aim(0, Order::InTurn, 1000);
        subject.run(CHUNK, CHUNK, || Ok(()))?;
        hits.add(&mut subject, quarter)?;

        let mut subject = Subject::new(&config)?;
        subject.aim(0, Order::InTurn, 100_000);
        subject.run(quarter, CHUNK, || Ok(()))?;
        known.add(&mut subject, quarter)?;

        let mut subject = Subject::new(&config)?;
        subject.aim(0, Order::InTurn, u32::MAX);
        new.add(&mut subject, million)?;
        full.add(&mut subject, million)?;
        // Send the most recent flows again, oldest first: none of them is still in the cache.
        subject.aim(2 * million - quarter, Order::InTurn, 2 * million);
        crowd.add(&mut subject, quarter)?;
    }

    report.table("A record, from the ring into table and sums (one worker)", "ns");
    report.row("known flow, 100 k in the table", Spread::of(known.user.clone()), Budget::None, "");
    report.row("known flow, 1 M in the table", Spread::of(crowd.user), Budget::None, "");
    report.row("new flow, the table grows from 0 to 1 M", Spread::of(new.user.clone()), Budget::None, "");
    report.row("new flow, table full: another one is evicted", Spread::of(full.user.clone()), Budget::None, "");

    report.table("A record, kernel to table", "ns");
    let hit = Spread::of(hits.kernel).median;
    let write = Spread::of(new.kernel.iter().map(|ns| ns - hit).collect());
    report.row("choosing a victim and writing it to the ring", write, Budget::None, "beyond a packet of a cached flow");
    let whole = |user: &[f64]| Spread::of(user.iter().map(|ns| ns + write.median).collect());
    report.row("known flow, all together", whole(&known.user), AtMost(BUDGET_NS), "");
    report.row("new flow, all together", whole(&new.user), AtMost(BUDGET_NS), "");

    report.table("Records that one worker sustains", "a second");
    for (name, samples) in [("known flows", &known), ("new flows", &new), ("new flows, table full", &full)] {
        report.row(name, Spread::of(samples.user.clone()).map(|ns| 1e9 / ns), Budget::None, "");
    }

    report.table("Handling one record, netmon_processing_duration_seconds, 99th percentile", "ns");
    report.row("known flows", Spread::of(known.p99), AtMost(P99_NS), "");
    report.row("new flows", Spread::of(new.p99), AtMost(P99_NS), "");
    report.row("new flows, table full", Spread::of(full.p99), AtMost(P99_NS), "");
    Ok(())
}
