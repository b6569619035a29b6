//! Writes flows for people and programs: the same fields as a table, as JSON or as CSV.

mod csv;
mod packet;
mod table;

use std::io::{self, Write};

use crate::config::Format;
use crate::line::Line;

pub use packet::{PacketLine, ParsedPacket};

/// Writes flows to `W`.
pub struct FlowWriter<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Table(W, table::Rows),
    Json(W),
    Csv(csv::Rows<W>),
}

impl<W: Write> FlowWriter<W> {
    /// Creates a writer to `out`, which should be buffered.
    ///
    /// # Errors
    ///
    /// The header cannot be written.
    pub fn new(format: Format, out: W) -> io::Result<FlowWriter<W>> {
        Ok(FlowWriter(match format {
            Format::Table => Inner::Table(out, table::Rows::default()),
            Format::Json => Inner::Json(out),
            Format::Csv => Inner::Csv(csv::Rows::new(out)?),
        }))
    }

    /// Creates a writer of a table with lines of at most `width` characters, as far as possible.
    pub fn table(out: W, width: Option<u16>) -> FlowWriter<W> {
        FlowWriter(Inner::Table(out, table::Rows::within(width)))
    }

    /// Writes one flow, at once or later.
    ///
    /// # Errors
    ///
    /// The output cannot be written to.
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

    /// Writes and flushes everything that remains.
    ///
    /// # Errors
    ///
    /// The output cannot be written to.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Table(out, rows) => rows.finish(out),
            Inner::Json(out) => out.flush(),
            Inner::Csv(rows) => rows.finish(),
        }
    }
}
