//! The columns of the table: their contents, and which of them fit the screen.

use serde_json::Value;

use crate::control::{Order, Row, View};

type Shown = Row<Value>;

/// A column.
pub(super) struct Column {
    pub(super) title: &'static str,
    /// The order that sorts by it.
    pub(super) order: Option<Order>,
    pub(super) right: bool,
    /// Width in characters; `None` for a share of what the others leave.
    width: Option<u16>,
    /// If the screen is too narrow, columns are dropped in ascending order of this number; 0 for those that stay.
    goes: u8,
    pub(super) cell: Cell,
}

/// The kind of contents of a column.
pub(super) enum Cell {
    Text(fn(&Shown) -> String),
    /// Red, if the row has failures.
    Failure(fn(&Shown) -> String),
    /// The rate over time.
    Trend,
}

/// Minimum width of a column without a width of its own.
const FLEXIBLE: u16 = 15;

const fn fixed(title: &'static str, order: Option<Order>, width: u16, goes: u8, cell: fn(&Shown) -> String) -> Column {
    Column { title, order, right: order.is_some(), width: Some(width), goes, cell: Cell::Text(cell) }
}

const fn name(title: &'static str, cell: fn(&Shown) -> String) -> Column {
    Column { title, order: None, right: false, width: None, goes: 0, cell: Cell::Text(cell) }
}

const PROTOCOL: Column = fixed("PROTO", None, 6, 6, |row| row.protocol.clone().unwrap_or_default());
const APP: Column = fixed("APP", None, 8, 3, |row| row.app_protocol.clone().unwrap_or_default());
const CLIENT: Column = name("CLIENT", |row| row.client.clone().unwrap_or_default());
const SERVER: Column = name("SERVER", |row| row.server.clone());
const SERVICE: Column = name("SERVICE", |row| row.server.clone());
const FLOWS: Column = fixed("FLOWS", Some(Order::Flows), 8, 0, |row| count(row.flows));
const RATE: Column = fixed("RATE/S", Some(Order::Rate), 10, 0, |row| size(row.bytes_per_s));
const TREND: Column = Column { title: "", order: None, right: false, width: Some(12), goes: 4, cell: Cell::Trend };
const PACKETS: Column = fixed("PKT/S", Some(Order::Packets), 8, 2, |row| count(row.packets_per_s.round() as u64));
const BYTES: Column = fixed("BYTES", Some(Order::Bytes), 10, 5, |row| size(row.bytes as f64));
const RTT: Column = fixed("RTT MS", Some(Order::Rtt), 9, 7, |row| {
    row.rtt_us.map_or_else(String::new, |us| {
        if us < 100_000.0 { format!("{:.3}", us / 1e3) } else { format!("{:.0}", us / 1e3) }
    })
});
const RETRANSMITS: Column = fixed("RETR", Some(Order::Retransmits), 6, 1, |row| match row.retransmits {
    0 => String::new(),
    some => count(some),
});
const OUTCOME: Column = Column {
    title: "STATE",
    order: Some(Order::Failures),
    right: false,
    width: Some(20),
    goes: 0,
    cell: Cell::Failure(outcome),
};
const FAILED: Column = Column {
    title: "FAILED",
    order: Some(Order::Failures),
    right: false,
    width: Some(22),
    goes: 0,
    cell: Cell::Failure(|row| reasons(&row.failed)),
};

static FLOW: [Column; 11] = [PROTOCOL, APP, CLIENT, SERVER, RATE, TREND, PACKETS, BYTES, RTT, RETRANSMITS, OUTCOME];
static PAIR: [Column; 10] = [CLIENT, SERVER, FLOWS, RATE, TREND, PACKETS, BYTES, RTT, RETRANSMITS, FAILED];
static SERVED: [Column; 11] = [PROTOCOL, APP, SERVICE, FLOWS, RATE, TREND, PACKETS, BYTES, RTT, RETRANSMITS, FAILED];

/// How a flow ended, else its state.
fn outcome(row: &Shown) -> String {
    let text = |name: &str| row.flow.as_ref().and_then(|flow| flow[name].as_str()).unwrap_or_default().to_owned();
    match row.failed.keys().next() {
        Some(reason) => format!("failed: {reason}"),
        None if text("status") == "active" => text("state"),
        None => text("status"),
    }
}

/// "3 refused, 1 timeout"; empty if there is none.
pub(super) fn reasons(failed: &std::collections::BTreeMap<String, u64>) -> String {
    let all: Vec<String> = failed.iter().map(|(reason, number)| format!("{} {reason}", count(*number))).collect();
    all.join(", ")
}

/// A number with separators (12345 becomes 12,345); large ones are abbreviated.
pub(super) fn count(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{},{:03}", number / 1000, number % 1000),
        1_000_000..10_000_000_000 => format!("{:.1}M", number as f64 / 1e6),
        _ => format!("{:.1}G", number as f64 / 1e9),
    }
}

/// A number of bytes with a unit.
pub(super) fn size(bytes: f64) -> String {
    if bytes < 0.5 { "0".to_owned() } else { bytesize::ByteSize(bytes.round() as u64).display().iec().to_string() }
}

/// The columns of a view that fit, each with its width.
pub(super) fn fitting(view: View, width: u16) -> Vec<(&'static Column, u16)> {
    let all: &'static [Column] = match view {
        View::Flows => &FLOW,
        View::Pairs => &PAIR,
        View::Services => &SERVED,
    };
    let mut columns: Vec<&'static Column> = all.iter().collect();
    let needed = |columns: &[&Column]| -> u16 {
        columns.iter().map(|column| column.width.unwrap_or(FLEXIBLE) + 1).sum::<u16>().saturating_sub(1)
    };
    while needed(&columns) > width {
        let Some(place) = (0..columns.len()).filter(|i| columns[*i].goes > 0).min_by_key(|i| columns[*i].goes) else {
            break;
        };
        columns.remove(place);
    }
    let left = width.saturating_sub(needed(&columns));
    let flexible = columns.iter().filter(|column| column.width.is_none()).count().max(1) as u16;
    columns.into_iter().map(|column| (column, column.width.unwrap_or(FLEXIBLE + left / flexible))).collect()
}
