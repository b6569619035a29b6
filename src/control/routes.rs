//! What each request is answered. All answers are JSON, or an object a line; an error is `{"error": "…"}`.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::api::Api;
use super::asked::Asked;
use super::request::{Refusal, Request};
use super::{flows, top, trace};
use crate::clients::{Budget, Reason, Share, Turned};
use crate::config::Given;

const JSON: &str = "application/json";
pub(super) const LINES: &str = "application/x-ndjson";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
/// What every request takes, to be read and to be answered: buffers, and some flows and lines.
const EVERY: usize = 384 << 10;
/// Answers up to this size are part of that.
const SMALL: usize = 64 << 10;
/// A watcher that sees nothing is told so, and the socket is found closed.
pub(super) const QUIET: Duration = Duration::from_secs(1);

pub(super) type Answer = Result<(), Failure>;

pub(super) enum Failure {
    Refused(Refusal),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}

/// What clients hold together, and who is refused for that.
pub(super) struct Held<'a> {
    pub(super) budget: &'a Arc<Budget>,
    pub(super) turned: &'a Turned,
}

impl Held<'_> {
    /// So much more for a client; it is refused if all is held that may be.
    pub(super) fn take(&self, bytes: usize) -> Result<Share, Refusal> {
        self.budget.take(bytes).ok_or_else(|| self.no_room())
    }

    pub(super) fn no_room(&self) -> Refusal {
        self.turned.count(Reason::Memory);
        let most = self.budget.most() >> 20;
        Refusal(
            503,
            format!(
                "clients hold all of the {most} MiB that they may together: come again when others have read their answers, ask for \
                 less (limit, filter), or raise resources.memory_limit"
            ),
        )
    }
}

/// A route: method, path, its parameters, what it does.
struct Route {
    method: &'static str,
    path: &'static str,
    parameters: &'static [&'static str],
    about: &'static str,
    answer: fn(&Asked<'_>, &mut dyn Write) -> Answer,
}

static ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1", parameters: &[], about: "these routes", answer: routes },
    Route { method: "GET", path: "/v1/status", parameters: &[], about: "how the agent is", answer: status },
    Route {
        method: "GET",
        path: "/v1/flows",
        parameters: &["filter", "sort", "reverse", "limit", "output", "columns"],
        about: "the flow table, an object a line",
        answer: flows::flows,
    },
    Route {
        method: "GET",
        path: "/v1/flows/watch",
        parameters: &["filter"],
        about: "flows as they start, end and fail, an object a line",
        answer: flows::watch,
    },
    Route {
        method: "GET",
        path: "/v1/top",
        parameters: &["by", "sort", "reverse", "limit", "filter"],
        about: "the flows, pairs of hosts or services that come first, and how fast they are",
        answer: top::answer,
    },
    Route {
        method: "GET",
        path: "/v1/stats/flows",
        parameters: &[],
        about: "flows by what is known of them",
        answer: flow_stats,
    },
    Route { method: "GET", path: "/v1/stats/series", parameters: &[], about: "series by metric", answer: series },
    Route {
        method: "GET",
        path: "/v1/config",
        parameters: &["key"],
        about: "the configuration and where it comes from",
        answer: config,
    },
    Route {
        method: "POST",
        path: "/v1/config",
        parameters: &["key", "value"],
        about: "gives a key another value",
        answer: set,
    },
    Route { method: "DELETE", path: "/v1/config", parameters: &["key"], about: "takes that back", answer: unset },
    Route {
        method: "POST",
        path: "/v1/reload",
        parameters: &[],
        about: "reads the configuration file again",
        answer: reload,
    },
    Route {
        method: "GET",
        path: "/v1/bpf",
        parameters: &[],
        about: "programs and maps in the kernel",
        answer: objects,
    },
    Route {
        method: "GET",
        path: "/v1/log",
        parameters: &[],
        about: "the latest lines of the log, at most 1000",
        answer: log,
    },
    Route {
        method: "GET",
        path: "/v1/metrics",
        parameters: &[],
        about: "the page that Prometheus reads",
        answer: metrics,
    },
    Route {
        method: "POST",
        path: "/v1/trace",
        parameters: &["filter", "for"],
        about: "headers of packets as they come, an object a line",
        answer: trace::trace,
    },
    Route { method: "DELETE", path: "/v1/trace", parameters: &[], about: "ends that", answer: trace::end },
];

/// Answers a request.
pub(super) fn answer(
    request: &Request,
    api: &dyn Api,
    held: &Held<'_>,
    out: &mut dyn Write,
    stop: &AtomicBool,
) -> io::Result<()> {
    let _every = held.budget.hold(EVERY);
    let answered = route(request).map_err(Failure::from).and_then(|route| {
        let known = |name: &&String| !route.parameters.contains(&name.as_str());
        if let Some(unknown) = request.parameters.keys().find(known) {
            let valid = if route.parameters.is_empty() { "none".to_owned() } else { route.parameters.join(", ") };
            return Err(bad(format!("there is no parameter {unknown}; valid: {valid}")).into());
        }
        (route.answer)(&Asked { parameters: &request.parameters, api, held, stop }, out)
    });
    match answered {
        Ok(()) => Ok(()),
        Err(Failure::Io(error)) => Err(error),
        Err(Failure::Refused(refusal)) => refuse(out, &refusal),
    }
}

fn route(request: &Request) -> Result<&'static Route, Refusal> {
    let mut at_path = ROUTES.iter().filter(|route| route.path == request.path).peekable();
    if at_path.peek().is_none() {
        return Err(Refusal(404, format!("there is no {}; /v1 lists what there is", request.path)));
    }
    let methods: Vec<&str> = at_path.clone().map(|route| route.method).collect();
    at_path
        .find(|route| route.method == request.method)
        .ok_or_else(|| Refusal(405, format!("{} is asked by {}", request.path, methods.join(" or "))))
}

pub(super) fn bad(what: impl Into<String>) -> Refusal {
    Refusal(400, what.into())
}

/// Says why not.
pub(super) fn refuse(out: &mut dyn Write, refusal: &Refusal) -> io::Result<()> {
    let body = format!("{}\n", json!({ "error": refusal.1 }));
    let phrase = match refusal.0 {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    write!(
        out,
        "HTTP/1.1 {} {phrase}\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        refusal.0,
        body.len()
    )?;
    out.flush()
}

fn whole(asked: &Asked<'_>, out: &mut dyn Write, kind: &str, body: &[u8]) -> Answer {
    let _held = if body.len() > SMALL { Some(asked.held.take(body.len())?) } else { None };
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    Ok(out.write_all(body)?)
}

pub(super) fn object(asked: &Asked<'_>, out: &mut dyn Write, value: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec(value).map_err(io::Error::from)?;
    body.push(b'\n');
    whole(asked, out, JSON, &body)
}

fn routes(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    let all = ROUTES.iter().map(|route| {
        json!({ "method": route.method, "path": route.path, "parameters": route.parameters, "about": route.about })
    });
    object(asked, out, &all.collect::<Vec<_>>())
}

fn status(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    object(asked, out, &asked.api.status())
}

fn flow_stats(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    object(asked, out, &asked.api.flow_stats())
}

fn series(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    object(asked, out, &asked.api.series())
}

fn metrics(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    whole(asked, out, TEXT, asked.api.metrics().as_ref())
}

fn objects(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    object(asked, out, &asked.api.objects())
}

fn log(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    let text: String = asked.api.log().into_iter().map(|line| line + "\n").collect();
    whole(asked, out, TEXT, text.as_bytes())
}

fn config(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    let all = asked.api.config();
    match asked.key()? {
        None => object(asked, out, &all),
        Some(key) => object(asked, out, &all.into_iter().filter(|value| value.key == key.path).collect::<Vec<_>>()),
    }
}

fn set(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    let key = asked.needed_key()?;
    let value = asked.parameters.get("value").ok_or_else(|| bad("the parameter value is missing"))?;
    asked.api.set(key, Some(Given::Text(value.clone()))).map_err(|error| Refusal(409, format!("{error:#}")))?;
    object(asked, out, &json!({ "key": key.path, "value": value }))
}

fn unset(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    let key = asked.needed_key()?;
    asked.api.set(key, None).map_err(|error| Refusal(409, format!("{error:#}")))?;
    object(asked, out, &json!({ "key": key.path }))
}

fn reload(asked: &Asked<'_>, out: &mut dyn Write) -> Answer {
    asked.api.reload().map_err(|error| Refusal(409, format!("{error:#}")))?;
    object(asked, out, &json!({ "reloaded": true }))
}
