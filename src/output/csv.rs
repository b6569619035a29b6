//! Writes flows as CSV: the fields of the JSON objects; fields of nested objects have the name of the outer field in
//! front.

use std::io::{self, Write};

use csv::Writer;
use serde_json::{Map, Value};

use crate::line::{Ends, Line, Nat, Stats};

/// Writes lines as rows.
pub(super) struct Rows<W: Write> {
    writer: Writer<W>,
    /// A field, and if that is an object, one of its fields.
    columns: Vec<(String, Option<String>)>,
}

impl<W: Write> Rows<W> {
    /// Writes the header.
    pub(super) fn new(out: W) -> io::Result<Rows<W>> {
        let mut columns = Vec::new();
        for (name, value) in fields(&complete())? {
            match value {
                Value::Object(inner) => columns.extend(inner.into_iter().map(|(part, _)| (name.clone(), Some(part)))),
                _ => columns.push((name, None)),
            }
        }
        let mut writer = Writer::from_writer(out);
        writer.write_record(columns.iter().map(|(name, part)| match part {
            Some(part) => format!("{name}_{part}"),
            None => name.clone(),
        }))?;
        Ok(Rows { writer, columns })
    }

    pub(super) fn add(&mut self, line: &Line) -> io::Result<()> {
        let fields = fields(line)?;
        let cells = self.columns.iter().map(|(name, part)| {
            let value = fields.get(name);
            match part {
                Some(part) => cell(value.and_then(|value| value.get(part))),
                None => cell(value),
            }
        });
        Ok(self.writer.write_record(cells)?)
    }

    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A line with all nested objects, for the header.
fn complete() -> Line {
    let (stats, ends) = (Some(Stats::default()), Some(Ends::default()));
    let nat = Some(Nat::default());
    Line { rtt_us: stats, response_us: stats, client: ends.clone(), server: ends, nat, ..Line::default() }
}

fn fields(line: &Line) -> io::Result<Map<String, Value>> {
    match serde_json::to_value(line)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
