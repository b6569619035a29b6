//! Prints flows for people and programs: as a table, as JSON or as CSV.

mod csv;
mod packet;
mod table;

use std::io::{self, Write};

use crate::config::Format;
use crate::line::Line;

pub use packet::{PacketLine, Taken};

/// Writes flows to `W`.
pub struct FlowWriter<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Table(W, table::Rows),
    Json(W),
    Csv(csv::Rows<W>),
}

impl<W: Write> FlowWriter<W> {
    /// Writes to `out`, which should be buffered.
    pub fn new(format: Format, out: W) -> io::Result<FlowWriter<W>> {
        Ok(FlowWriter(match format {
            Format::Table => Inner::Table(out, table::Rows::default()),
            Format::Json => Inner::Json(out),
            Format::Csv => Inner::Csv(csv::Rows::new(out)?),
        }))
    }

    /// As a table whose lines are not longer than `width`, as far as that is possible.
    pub fn table(out: W, width: Option<u16>) -> FlowWriter<W> {
        FlowWriter(Inner::Table(out, table::Rows::within(width)))
    }

    /// Writes one flow, now or later.
    pub fn write(&mut self, line: &Line) -> io::Result<()> {
        match &mut self.0 {
            Inner::Table(out, rows) => rows.add(line, out),
            Inner::Json(out) => {
                serde_json::to_writer(&mut *out, line)?;
                out.write_all(b"\n")
            }
            Inner::Csv(rows) => rows.add(line),
        }
    }

    /// Writes what is left.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Table(out, rows) => rows.finish(out),
            Inner::Json(out) => out.flush(),
            Inner::Csv(rows) => rows.finish(),
        }
    }
}
