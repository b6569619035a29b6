//! The routes of events that look hostile.

use std::io::{self, Write};

use crossbeam_channel::RecvTimeoutError;
use serde_json::json;

use super::call::Call;
use super::refusal::{Refusal, bad, unwritten};
use super::routes::{LINES, QUIET, Streamed, Whole, whole};
use crate::config::Whom;
use crate::http::Opening;
use crate::sinks::detect::{EventFilter, Kind, Severity};

pub(super) const PARAMETERS: &[&str] = &["kind", "severity", "source", "target"];

/// The filter that the parameters are.
fn filter(call: &Call) -> Result<EventFilter, Refusal> {
    let get = |name: &str| call.parameters.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let kind = |name: &str| {
        let valid = || Kind::ALL.map(Kind::name).join(", ");
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name.trim());
        kind.ok_or_else(|| bad(format!("kind={name}; valid: {}", valid())))
    };
    let severity = |name: &str| {
        let severity = Severity::ALL.into_iter().find(|severity| severity.name() == name);
        severity.ok_or_else(|| bad(format!("severity={name}; valid: {}", Severity::ALL.map(Severity::name).join(", "))))
    };
    let whom = |name: &str| get(name).map(Whom::parse).transpose().map_err(|error| bad(format!("{name}: {error}")));
    Ok(EventFilter {
        kinds: get("kind").map(|names| names.split(',').map(kind).collect()).transpose()?.unwrap_or_default(),
        severity: get("severity").map(severity).transpose()?,
        source: whom("source")?,
        target: whom("target")?,
    })
}

fn off() -> Refusal {
    Refusal(409, "nothing is looked for: set features.security_monitoring.enabled=true".to_owned())
}

pub(super) fn events(call: &Call) -> Whole {
    let filter = filter(call)?;
    let events = call.api.security_events().ok_or_else(off)?;
    let mut body = Vec::new();
    for event in events.iter().filter(|event| filter.matches(event)) {
        serde_json::to_writer(&mut body, &**event).map_err(|error| unwritten(&error))?;
        body.push(b'\n');
    }
    whole(LINES, body)
}

pub(super) fn watch(call: &Call, opening: &mut Opening) -> Streamed {
    let filter = filter(call)?;
    let watched = call.api.watch_security().map_err(|error| Refusal(503, format!("{error:#}")))?.ok_or_else(off)?;
    let mut chunks = opening.begin(LINES)?;
    chunks.flush()?;
    while !chunks.is_over() {
        match watched.events.recv_timeout(QUIET) {
            Ok(event) if filter.matches(&event) => {
                serde_json::to_writer(&mut chunks, &*event).map_err(io::Error::from)?;
                chunks.write_all(b"\n")?;
            }
            Ok(_) => {}
            // An empty line shows whether anybody still reads.
            Err(RecvTimeoutError::Timeout) => chunks.write_all(b"\n")?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let lost = watched.lost();
        if lost > 0 {
            writeln!(chunks, "{}", json!({ "lost": lost }))?;
        }
        chunks.flush()?;
    }
    Ok(chunks.end()?)
}
