//! A run as text.

use comfy_table::{CellAlignment, Table, TableStyle, presets};
use indicatif::{BinaryBytes, HumanCount};

use super::Run;
use super::compare::{Amount, PartSeen};

fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// A table in one of comfy-table's styles, whose columns from `numbers` on are numbers.
fn table(style: TableStyle, head: &[&str], rows: Vec<Vec<String>>, numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(style).set_header(head.iter().copied()).add_rows(rows);
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What was sent, and what the agent saw of it: a row for each part, for all of them, and for the interface.
pub fn parts(run: &Run, style: TableStyle) -> Table {
    let head = ["part", "outcome", "connections", "seen", "packets", "seen", "bytes", "seen"];
    let row = |name: &str, outcome: &str, connections: [String; 2], [sent, seen]: [Amount; 2]| {
        let [made, counted] = connections;
        let amounts = [sent.packets, seen.packets, sent.bytes, seen.bytes].map(count);
        [name.to_owned(), outcome.to_owned(), made, counted].into_iter().chain(amounts).collect()
    };
    let seen = |part: &PartSeen| part.seen.get(part.outcome).copied().unwrap_or_default();
    let mut rows: Vec<Vec<String>> = run
        .parts
        .iter()
        .map(|part| row(part.name, part.outcome, [part.connections, seen(part)].map(count), part.totals()))
        .collect();
    let all = |of: &dyn Fn(&PartSeen) -> u64| run.parts.iter().map(of).sum::<u64>();
    let amount = |side: usize| Amount {
        packets: all(&|part| part.totals()[side].packets),
        bytes: all(&|part| part.totals()[side].bytes),
    };
    let connections = [all(&|part| part.connections), all(&seen)].map(count);
    rows.push(row("all", "", connections, [amount(0), amount(1)]));
    rows.push(row("interface", "", Default::default(), [run.link.counted, run.link.seen]));
    table(style, &head, rows, 2)
}

/// What the agent took: mean and maximum.
pub fn agent(run: &Run, style: TableStyle) -> Table {
    let taken = &run.agent;
    let percent = |value: f64| format!("{value:.2} % of one core");
    let whole = |value: f64| count(value.round() as u64);
    let bytes = |value: f64| BinaryBytes(value as u64).to_string();
    let rows = [
        ("CPU time, agent", taken.cpu_percent, &percent as &dyn Fn(f64) -> String),
        ("CPU time, BPF programs", taken.programs_percent, &percent),
        ("resident memory", taken.resident_bytes, &bytes),
        ("packets a second", taken.packets_per_s, &whole),
        ("records a second", taken.records_per_s, &whole),
        ("flows in the table", taken.flows, &whole),
    ];
    let row = |(name, summary, say): (&str, super::Summary, &dyn Fn(f64) -> String)| {
        vec![name.to_owned(), say(summary.mean), say(summary.max)]
    };
    table(style, &["the agent", "mean", "maximum"], rows.into_iter().map(row).collect(), 1)
}

/// What was lost or left out, in a sentence.
pub fn losses(run: &Run) -> String {
    let taken = &run.agent;
    format!(
        "Lost: {} packets, {} records; evicted: {} flows; not measured: {} times; dropped by the link: {} packets.",
        count(run.link.lost),
        count(taken.records_lost),
        count(taken.flows_evicted),
        count(taken.unmeasured),
        count(run.link.dropped)
    )
}

/// Whether the agent agrees, and where it does not.
pub fn verdict(run: &Run) -> String {
    if run.agrees {
        return "The agent agrees with sockets and interface.".to_owned();
    }
    let differences = run.differences.iter().map(|difference| format!("\n- {difference}"));
    format!("The agent does not agree with sockets and interface:\n{}", differences.collect::<String>())
}

/// All of it, for a terminal.
pub fn text(run: &Run) -> String {
    let made: u64 = run.parts.iter().map(|part| part.connections).sum();
    format!(
        "{} connections in {:.1} s, {} a second\n\n{}\n\n{}\n\n{}\n{}",
        count(made),
        run.took_s,
        count((made as f64 / run.took_s) as u64),
        parts(run, presets::NOTHING),
        agent(run, presets::NOTHING),
        losses(run),
        verdict(run)
    )
}
