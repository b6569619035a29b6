//! Flows as a table: what fits a line of a terminal.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ColumnConstraint, Table, presets};

use super::{Ends, Line};

const HEADER: [&str; 12] =
    ["START", "PROTO", "CLIENT", "SERVER", "SENT", "BYTES", "RECEIVED", "BYTES", "SECONDS", "RTT MS", "APP", "OUTCOME"];
/// Columns of numbers.
const RIGHT: std::ops::Range<usize> = 4..10;
/// Where lines are too long, in this order: packets, seconds, the time, application, round trip, bytes.
const LEFT_OUT: [usize; 8] = [4, 6, 8, 0, 10, 9, 5, 7];
/// The width of a column is known once its rows are: more of them than this begin a table of their own.
const ROWS: usize = 10_000;

/// Rows that wait to be written.
pub(super) struct Rows {
    table: Table,
    width: Option<u16>,
    written: bool,
}

impl Default for Rows {
    fn default() -> Rows {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(HEADER);
        for column in RIGHT {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Rows { table, width: None, written: false }
    }
}

impl Rows {
    /// For lines that are not to be longer, as far as that is possible.
    pub(super) fn within(width: Option<u16>) -> Rows {
        Rows { width, ..Rows::default() }
    }

    /// Leaves out columns until what is left fits.
    fn fit(&mut self) {
        let Some(width) = self.width else { return };
        let widths = self.table.column_max_content_widths();
        // A blank on either side of each.
        let mut sum: usize = widths.iter().map(|width| usize::from(*width) + 2).sum();
        for column in LEFT_OUT {
            if sum <= usize::from(width) {
                return;
            }
            sum -= widths.get(column).map_or(0, |width| usize::from(*width) + 2);
            if let Some(column) = self.table.column_mut(column) {
                column.set_constraint(ColumnConstraint::Hidden);
            }
        }
    }

    pub(super) fn add(&mut self, line: &Line, out: &mut impl Write) -> io::Result<()> {
        self.table.add_row([
            // The date is on the whole line only, in JSON and CSV.
            line.start.get(11..26).unwrap_or_default().to_owned(),
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
        if self.table.row_count() > 0 || !self.written {
            self.write(out)?;
        }
        out.flush()
    }

    fn write(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.fit();
        for line in self.table.lines() {
            // The last column is padded too.
            writeln!(out, "{}", line.trim_end())?;
        }
        *self = Rows { width: self.width, written: true, ..Rows::default() };
        Ok(())
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
