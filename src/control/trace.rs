//! The route of packet traces.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use super::api::TraceNext;
use super::call::Call;
use super::refusal::{bad, conflict};
use super::routes::{LINES, QUIET, Streamed, Whole, object};
use crate::filter::PacketFilter;
use crate::http::Opening;

/// The duration of a trace by default.
const TIME: Duration = Duration::from_secs(30);
/// The longest duration.
const MOST_TIME: Duration = Duration::from_secs(600);

pub(super) fn trace(call: &Call, opening: &mut Opening) -> Streamed {
    let text = call.parameters.get("filter").map_or("", String::as_str);
    let filter = PacketFilter::parse(text).map_err(|error| bad(error.to_string()))?;
    let time = call.parameters.get("for").map_or(Ok(TIME), |text| humantime::parse_duration(text));
    let time = time.ok().filter(|time| (Duration::from_secs(1)..=MOST_TIME).contains(time));
    let time = time.ok_or_else(|| bad("for: valid is a duration from 1s to 10m, such as 30s"))?;
    let mut trace = call.api.trace(filter, time).map_err(|error| conflict(&error))?;
    let mut chunks = opening.begin(LINES)?;
    // The client knows now that packets are traced.
    writeln!(chunks, "{}", json!({ "event": "start" }))?;
    chunks.flush()?;
    let (mut reported, mut reported_at) = (trace.counts(), Instant::now());
    while !chunks.is_over() {
        match trace.next(QUIET) {
            TraceNext::Packets(packets) => {
                for packet in packets {
                    let mut line = serde_json::to_value(packet).map_err(io::Error::from)?;
                    line["event"] = "packet".into();
                    writeln!(chunks, "{line}")?;
                }
            }
            // An empty line shows whether anybody still reads.
            TraceNext::Nothing => chunks.write_all(b"\n")?,
            TraceNext::End => break,
        }
        let counts = trace.counts();
        let left_out = (counts.held_back, counts.lost);
        if left_out != (reported.held_back, reported.lost) && reported_at.elapsed() >= QUIET {
            let (matched, held_back, lost) = (counts.matched, counts.held_back, counts.lost);
            let line = json!({ "event": "counts", "matched": matched, "held_back": held_back, "lost": lost });
            writeln!(chunks, "{line}")?;
            (reported, reported_at) = (counts, Instant::now());
        }
        chunks.flush()?;
    }
    let counts = trace.counts();
    let (matched, held_back, lost) = (counts.matched, counts.held_back, counts.lost);
    writeln!(chunks, "{}", json!({ "event": "end", "matched": matched, "held_back": held_back, "lost": lost }))?;
    Ok(chunks.end()?)
}

pub(super) fn end(call: &Call) -> Whole {
    call.api.end_trace().map_err(|error| conflict(&error))?;
    object(&json!({ "ended": true }))
}
