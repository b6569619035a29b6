//! Uses the agent as a library: watches the given interfaces (all that are up if none is given) until standard input ends, then
//! prints every flow it saw. `make demo` uses it.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use netmon::agent::{self, Handle};
use netmon::config::{Config, Selection};
use netmon::flow::{Flow, protocol_name};

/// Flows by start time (ns) and endpoints, so in the order in which they began.
type Seen = BTreeMap<(u64, String), Flow>;

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).format_target(false).init();
    let interfaces: Vec<String> = std::env::args().skip(1).collect();
    let config = Config {
        interfaces: Selection::new(&interfaces)?,
        connect_timeout: Duration::from_secs(3), // the default of half a minute is too long for a demo
        ..Config::default()
    };
    let (stop, stopped) = bounded(1);
    let (finish, finished) = bounded::<()>(0);
    let mut watcher = None;
    std::thread::spawn(move || {
        // Blocks until the other end of the pipe is closed.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = stop.send(());
    });
    agent::run(&config, &stopped, |handle| {
        println!("ready");
        watcher = Some(std::thread::spawn(move || collect(&handle, &finished)));
    })?;
    drop(finish);
    if let Some(Ok(flows)) = watcher.map(std::thread::JoinHandle::join) {
        print(&flows);
    }
    Ok(())
}

/// Collects flows. They leave the table a few seconds after they end, so this polls often enough to see each.
fn collect(handle: &Handle, finished: &Receiver<()>) -> Seen {
    let mut seen = Seen::new();
    loop {
        let over = finished.recv_timeout(Duration::from_millis(500)) != Err(RecvTimeoutError::Timeout);
        for flow in handle.flows() {
            seen.insert((flow.first_ns, endpoints(&flow).join(" ")), flow);
        }
        if over {
            return seen;
        }
    }
}

fn endpoints(flow: &Flow) -> [String; 2] {
    let client = usize::from(flow.client & 1);
    [client, 1 - client].map(|end| {
        let end = flow.endpoint(end);
        match (end.ip(flow.v6()), end.port) {
            (ip, 0) => ip.to_string(),
            (ip, port) if ip.is_ipv6() => format!("[{ip}]:{port}"),
            (ip, port) => format!("{ip}:{port}"),
        }
    })
}

fn print(flows: &Seen) {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["PROTO", "CLIENT", "SERVER", "SENT", "BYTES", "RECEIVED", "BYTES", "SECONDS", "OUTCOME"]);
    for flow in flows.values() {
        let [client, server] = endpoints(flow);
        let (sent, received) = (flow.from_client(), flow.from_server());
        let outcome = match flow.outcome {
            None => "active".to_owned(),
            Some(outcome) => match outcome.reason() {
                None => outcome.status().name().to_owned(),
                Some(reason) => format!("{}: {}", outcome.status().name(), reason.name()),
            },
        };
        table.add_row([
            protocol_name(flow.protocol).into_owned(),
            client,
            server,
            sent.packets.to_string(),
            sent.bytes.to_string(),
            received.packets.to_string(),
            received.bytes.to_string(),
            format!("{:.2}", flow.last_ns().saturating_sub(flow.first_ns) as f64 / 1e9),
            outcome,
        ]);
    }
    for column in 3..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
}
