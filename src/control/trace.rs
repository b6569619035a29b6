//! The route of packet traces.

use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::json;

use super::api::TraceNext;
use super::asked::Asked;
use super::chunks::Chunks;
use super::request::Refusal;
use super::routes::{Answer, LINES, QUIET, bad, object};
use crate::filter::PacketFilter;

/// How long a trace goes on if nobody says otherwise.
const TIME: Duration = Duration::from_secs(30);
/// How long it may at most.
const MOST_TIME: Duration = Duration::from_secs(600);

pub(super) fn trace(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    let text = asked.parameters.get("filter").map_or("", String::as_str);
    let filter = PacketFilter::parse(text).map_err(|error| bad(error.to_string()))?;
    let time = asked.parameters.get("for").map_or(Ok(TIME), |text| humantime::parse_duration(text));
    let time = time.ok().filter(|time| (Duration::from_secs(1)..=MOST_TIME).contains(time));
    let time = time.ok_or_else(|| bad("for: valid is a duration from 1s to 10m, such as 30s"))?;
    let mut trace = asked.api.trace(filter, time).map_err(|error| Refusal(409, format!("{error:#}")))?;
    let mut chunks = Chunks::begin(out, LINES)?;
    // The client knows now that packets are traced.
    writeln!(chunks, "{}", json!({ "event": "start" }))?;
    chunks.flush()?;
    let (mut told, mut told_at) = (trace.counts(), Instant::now());
    while !asked.stop.load(Relaxed) {
        match trace.next(QUIET) {
            TraceNext::Packets(packets) => {
                for packet in packets {
                    let mut line = serde_json::to_value(packet).map_err(io::Error::from)?;
                    line["event"] = "packet".into();
                    writeln!(chunks, "{line}")?;
                }
            }
            // An empty line: it shows whether anybody still reads.
            TraceNext::Nothing => chunks.write_all(b"\n")?,
            TraceNext::End => break,
        }
        let counts = trace.counts();
        let left_out = (counts.held_back, counts.lost);
        if left_out != (told.held_back, told.lost) && told_at.elapsed() >= QUIET {
            let (matched, held_back, lost) = (counts.matched, counts.held_back, counts.lost);
            let line = json!({ "event": "counts", "matched": matched, "held_back": held_back, "lost": lost });
            writeln!(chunks, "{line}")?;
            (told, told_at) = (counts, Instant::now());
        }
        chunks.flush()?;
    }
    let counts = trace.counts();
    let (matched, held_back, lost) = (counts.matched, counts.held_back, counts.lost);
    writeln!(chunks, "{}", json!({ "event": "end", "matched": matched, "held_back": held_back, "lost": lost }))?;
    Ok(chunks.end()?)
}

pub(super) fn end(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    asked.api.end_trace().map_err(|error| Refusal(409, format!("{error:#}")))?;
    object(asked, out, &json!({ "ended": true }))
}
