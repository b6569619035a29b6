//! Writes flows as a table that fits the width of a terminal.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ColumnConstraint, Table, Width, presets};

use crate::line::{Ends, Line};

const HEADER: [&str; 12] =
    ["START", "PROTO", "CLIENT", "SERVER", "SENT", "BYTES", "RECEIVED", "BYTES", "SECONDS", "RTT MS", "APP", "OUTCOME"];
/// The columns of numbers.
const RIGHT: std::ops::Range<usize> = 4..10;
/// Columns that are left out if lines are too long, in this order: packets, seconds, the time, application, round trip,
/// bytes.
const LEFT_OUT: [usize; 8] = [4, 6, 8, 0, 10, 9, 5, 7];
/// The width of a column is known once its rows are. This many rows wait for each other; later rows have at least that
/// width.
const ROWS: usize = 1000;

/// Rows that wait to be written.
pub(super) struct Rows {
    table: Table,
    width: Option<u16>,
    /// Widths of the columns after the first rows were written; `None` for those that are hidden.
    before: Option<[Option<u16>; HEADER.len()]>,
}

impl Default for Rows {
    fn default() -> Rows {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(HEADER);
        Rows { table, width: None, before: None }
    }
}

impl Rows {
    /// Rows of at most this width, as far as possible.
    pub(super) fn within(width: Option<u16>) -> Rows {
        Rows { width, ..Rows::default() }
    }

    /// Hides columns until the others fit. Hidden ones stay hidden, so that all rows have the same columns.
    fn fit(&mut self) {
        let widths = self.table.column_max_content_widths();
        let mut shown: [Option<u16>; HEADER.len()] = std::array::from_fn(|column| widths.get(column).copied());
        match (self.before, self.width) {
            (Some(before), _) => {
                for (width, before) in shown.iter_mut().zip(before) {
                    *width = before.map(|before| width.map_or(before, |width| width.max(before)));
                }
            }
            (None, Some(most)) => {
                // One space on either side of each column.
                let mut sum: usize = shown.iter().flatten().map(|width| usize::from(*width) + 2).sum();
                for column in LEFT_OUT {
                    if sum <= usize::from(most) {
                        break;
                    }
                    sum -= shown[column].take().map_or(0, |width| usize::from(width) + 2);
                }
            }
            (None, None) => {}
        }
        for (number, width) in shown.iter().enumerate() {
            let Some(column) = self.table.column_mut(number) else { continue };
            column.set_constraint(match width {
                Some(width) => ColumnConstraint::LowerBoundary(Width::Fixed(width + 2)),
                None => ColumnConstraint::Hidden,
            });
            if RIGHT.contains(&number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.before = Some(shown);
    }

    pub(super) fn add(&mut self, line: &Line, out: &mut impl Write) -> io::Result<()> {
        self.table.add_row([
            // Only JSON and CSV have the date.
            time_of_day(&line.start).to_owned(),
            line.protocol.clone(),
            endpoint(line.client.as_ref(), line.client_ip, line.client_port),
            endpoint(line.server.as_ref(), line.server_ip, line.server_port),
            line.client_packets.to_string(),
            line.client_bytes.to_string(),
            line.server_packets.to_string(),
            line.server_bytes.to_string(),
            format!("{:.3}", line.duration_s),
            line.rtt_us.map_or_else(String::new, |rtt| format!("{:.3}", rtt.mean / 1e3)),
            line.app_protocol.unwrap_or_default().to_owned(),
            match line.reason {
                Some(reason) => format!("{}: {reason}", line.status),
                None => line.status.to_owned(),
            },
        ]);
        if self.table.row_count() < ROWS { Ok(()) } else { self.write(out) }
    }

    pub(super) fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.table.row_count() > 0 || self.before.is_none() {
            self.write(out)?;
        }
        out.flush()
    }

    fn write(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.fit();
        // The reader may be slow: do not keep the rows, which take many times the memory of the lines.
        let mut next = Table::new();
        next.load_style(presets::NOTHING);
        let rows = std::mem::replace(&mut self.table, next);
        let lines: Vec<String> = rows.lines().collect();
        drop(rows);
        // The last column is padded, too.
        lines.iter().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
    }
}

fn endpoint(ends: Option<&Ends>, ip: Option<std::net::IpAddr>, port: Option<u16>) -> String {
    if let Some(host) = ends.and_then(Ends::host) {
        return port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    }
    match (ip, port) {
        (None, _) => String::new(),
        (Some(ip), None) => ip.to_string(),
        (Some(ip), Some(port)) => std::net::SocketAddr::new(ip, port).to_string(),
    }
}

/// The time of an RFC 3339 timestamp without its date, with the digits that are known but no more than microseconds.
fn time_of_day(timestamp: &str) -> &str {
    let time = timestamp.get(11..).unwrap_or_default().trim_end_matches('Z');
    time.get(..15).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_that_are_known() {
        for (timestamp, time) in [
            ("2026-11-29T14:15:01.513123456Z", "14:15:01.513123"),
            ("2026-11-29T14:15:01.513123Z", "14:15:01.513123"),
            ("2026-11-29T14:15:01.513Z", "14:15:01.513"),
            ("", ""),
        ] {
            assert_eq!(time_of_day(timestamp), time);
        }
    }
}
