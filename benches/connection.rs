//! The cost of a TCP connection from SYN to the last ACK, in programs, sweep and workers: eight packets, including a request and
//! its response.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netmon::bpf::Sweep;
use netmon::config::Config;

use crate::report::{Budget, Budget::AtLeast, Budget::AtMost, Report, Spread};
use crate::subject::{COUNTED_WITHIN, Cost, Subject, pin, whole};
use crate::support::vary::Order;

/// Packets of a connection, as tests/bpf/vary.bpf.c sends them.
const STEPS: u32 = 8;
/// The payload of both client and server, because protocol detection looks at both directions.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
/// Connections open at the same time.
const OPEN: u32 = 250;
/// Connections between two runs of the worker. Each has two directions, and their records must fit the rings.
const CHUNK: u32 = 4 * OPEN;

pub fn run(report: &mut Report) -> Result<()> {
    pin()?;
    let config = Config::default();
    let connections = whole(if report.quick { 20_000 } else { 100_000 }, CHUNK);
    let rounds = report.rounds(9);

    // A flood: the cache overflows, so entries leave when others need their slots.
    let mut flood = Subject::new(&config)?;
    flood.carry(REQUEST);
    flood.aim(0, Order::Connections, OPEN);
    // Warm up until the table is full, or flows leave it as fast as they arrive.
    let settle = if report.quick { 100_000 } else { 1_200_000 };
    flood.run(settle * STEPS, CHUNK * STEPS, || Ok(()))?;
    // At low load: the sweep finds all entries, a thousand connections per sweep.
    let mut calm = Subject::new(&config)?;
    calm.carry(REQUEST);
    calm.aim(0, Order::Connections, OPEN);
    let sweeper = calm.bpf.sweeper()?;
    // In the agent, the second sweep, a second later, would remove the entries.
    let sweep = || sweeper.sweep(Sweep::Due).and_then(|()| sweeper.sweep(Sweep::All));

    let (mut flooded, mut calmed) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        flooded.push(flood.run(connections * STEPS, CHUNK * STEPS, || Ok(()))?);
        calmed.push(calm.run(connections * STEPS, CHUNK * STEPS, sweep)?);
    }
    ensure!(flood.lost() == 0 && calm.lost() == 0, "a ring overflowed, although the records should fit");
    let all = u64::from(connections) * rounds as u64;
    let start = Instant::now();
    loop {
        calm.inline.drain();
        let ended = calm.inline.reading().context("there are no workers")?.sums.ended_flows();
        if ended >= all {
            break;
        }
        ensure!(start.elapsed() < COUNTED_WITHIN, "{all} connections were closed, but only {ended} were seen to end");
        std::thread::sleep(Duration::from_millis(100));
    }

    let each = f64::from(connections);
    let spread = |costs: &[Cost], of: fn(&Cost) -> f64| Spread::of(costs.iter().map(|c| of(c) / each).collect());
    report.table("A connection, open to close", "ns of CPU");
    for (name, costs) in [("1,000 a second: swept", &calmed), ("as many as one core can handle: displaced", &flooded)] {
        let records = spread(costs, |c| c.records).median;
        report.row(&format!("{name}, programs"), spread(costs, |c| c.kernel), Budget::None, "");
        report.row(
            &format!("{name}, worker"),
            spread(costs, |c| c.user),
            Budget::None,
            &format!("{records:.2} records"),
        );
        report.row(&format!("{name}, all"), spread(costs, |c| c.kernel + c.user), AtMost(5000.0), "");
    }
    report.table("New connections that one core sustains without loss, programs and worker", "a second");
    let rate = spread(&flooded, |c| c.kernel + c.user).map(|ns| 1e9 / ns);
    report.row("open to close", rate, AtLeast(200_000.0), "");
    Ok(())
}
