//! The routes of flows: the table, and what happens in it.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use super::api::Next;
use super::call::Call;
use super::order::{NoRoom, Order};
use super::refusal::{Refusal, bad};
use super::routes::{LINES, QUIET, Streamed};
use crate::config::Format;
use crate::filter::{FIELDS, Field};
use crate::http::{Opening, TEXT};
use crate::output::FlowWriter;

/// At most this many flows are sorted.
const SORTED: usize = 100_000;
/// Sorted flows that are read from the table together.
const LOOKED: usize = 128;
/// Events that are written in one go.
const TOGETHER: usize = 1000;

pub(super) fn flows(call: &Call, opening: &mut Opening) -> Streamed {
    let filter = call.filter()?;
    let (limit, columns) = (call.number("limit")?, call.number("columns")?);
    let columns =
        columns.map(|columns| columns.try_into().map_err(|_| bad(format!("columns={columns}: at most 65535"))));
    let columns: Option<u16> = columns.transpose()?;
    let (format, kind) = match call.parameters.get("output").map_or("json", String::as_str) {
        "json" => (Format::Json, LINES),
        "csv" => (Format::Csv, TEXT),
        "table" => (Format::Table, TEXT),
        other => return Err(bad(format!("output={other}; valid: json, csv, table")).into()),
    };
    let reverse = call.switch("reverse")?;
    let order = match call.parameters.get("sort") {
        None => None,
        Some(name) => Some(Field::named(name).map(|field| Order { field, reverse }).ok_or_else(|| {
            let names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
            bad(format!("sort={name}: there is no such field; there are {}", names.join(" ")))
        })?),
    };
    if reverse && order.is_none() {
        return Err(bad("reverse: of what, sort says").into());
    }
    if columns.is_some() && !matches!(format, Format::Table) {
        return Err(bad("columns: a table alone has some").into());
    }
    // The request can be refused only before the answer begins.
    let mut share = call.held.take(0)?;
    let first = match order {
        None => Vec::new(),
        Some(order) => {
            let most = limit.unwrap_or(SORTED).min(SORTED);
            order.first(&*call.api, &filter, most, &mut share).map_err(|NoRoom| call.held.no_room())?
        }
    };
    let mut chunks = opening.begin(kind)?;
    let mut writer = match format {
        Format::Table => FlowWriter::table(&mut chunks, columns),
        other => FlowWriter::new(other, &mut chunks)?,
    };
    match order {
        None => {
            let mut left = limit.unwrap_or(usize::MAX);
            let mut failure = None;
            call.api.flows(&filter, &mut |_, line| {
                if left > 0 {
                    left -= 1;
                    failure = writer.write(&line).err();
                }
                left > 0 && failure.is_none()
            });
            if let Some(failure) = failure {
                return Err(failure.into());
            }
        }
        Some(order) => {
            for some in first.chunks(LOOKED) {
                // They may have changed since they were put in order.
                let mut lines = call.api.look(some);
                lines.retain(|line| filter.matches(line));
                order.sort(&mut lines);
                lines.iter().try_for_each(|line| writer.write(line))?;
            }
        }
    }
    writer.finish()?;
    drop(writer);
    Ok(chunks.end()?)
}

pub(super) fn watch(call: &Call, opening: &mut Opening) -> Streamed {
    let mut events = call.api.watch(call.filter()?).map_err(|error| Refusal(503, format!("{error:#}")))?;
    let mut chunks = opening.begin(LINES)?;
    chunks.flush()?;
    let (mut wait, mut written) = (QUIET, 0);
    while !chunks.is_over() {
        match events.next(wait) {
            Next::Event(event) => {
                serde_json::to_writer(&mut chunks, &event).map_err(io::Error::from)?;
                chunks.write_all(b"\n")?;
                // Those that are there already are written with it.
                written += 1;
                wait = Duration::ZERO;
                if written < TOGETHER {
                    continue;
                }
            }
            // An empty line shows whether anybody still reads.
            Next::Nothing if written == 0 => chunks.write_all(b"\n")?,
            Next::Nothing => {}
            Next::End => break,
        }
        let lost = events.lost();
        if lost > 0 {
            writeln!(chunks, "{}", json!({ "event": "lost", "count": lost }))?;
        }
        chunks.flush()?;
        (wait, written) = (QUIET, 0);
    }
    Ok(chunks.end()?)
}
