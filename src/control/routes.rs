//! What each request is answered. All answers are JSON, or an object a line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::api::Api;
use super::call::Call;
use super::held::Held;
use super::refusal::{Refusal, bad, conflict, unwritten};
use super::{events, flows, top, trace};
use crate::config::Given;
use crate::http::{Body, NoStream, Opening, Page, Reply, Request, TEXT, parameters};

pub(super) const JSON: &str = "application/json";
pub(super) const LINES: &str = "application/x-ndjson";
/// After this long without anything to report, a watcher gets an empty line, which shows whether it still reads.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// An answer that is made before it is written.
pub(super) type Whole = Result<Reply, Refusal>;
/// One that is written while it is read.
pub(super) type Streamed = Result<(), NoStream>;

/// How a route answers.
#[derive(Clone, Copy)]
enum Act {
    Whole(fn(&Call) -> Whole),
    Stream(fn(&Call, &mut Opening) -> Streamed),
}

/// A route: method, path, its parameters, what it does.
struct Route {
    method: &'static str,
    path: &'static str,
    parameters: &'static [&'static str],
    about: &'static str,
    act: Act,
}

static ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1", parameters: &[], about: "these routes", act: Act::Whole(routes) },
    Route { method: "GET", path: "/v1/status", parameters: &[], about: "how the agent is", act: Act::Whole(status) },
    Route {
        method: "GET",
        path: "/v1/flows",
        parameters: &["filter", "sort", "reverse", "limit", "output", "columns"],
        about: "the flow table, an object a line",
        act: Act::Stream(flows::flows),
    },
    Route {
        method: "GET",
        path: "/v1/flows/watch",
        parameters: &["filter"],
        about: "flows as they start, end and fail, an object a line",
        act: Act::Stream(flows::watch),
    },
    Route {
        method: "GET",
        path: "/v1/events",
        parameters: events::PARAMETERS,
        about: "the latest events that look hostile, an object a line",
        act: Act::Whole(events::events),
    },
    Route {
        method: "GET",
        path: "/v1/events/watch",
        parameters: events::PARAMETERS,
        about: "such events as they come, an object a line",
        act: Act::Stream(events::watch),
    },
    Route {
        method: "GET",
        path: "/v1/top",
        parameters: &["by", "sort", "reverse", "limit", "filter"],
        about: "the flows, pairs of hosts or services that come first, and how fast they are",
        act: Act::Whole(top::answer),
    },
    Route {
        method: "GET",
        path: "/v1/stats/flows",
        parameters: &[],
        about: "flows by what is known of them",
        act: Act::Whole(flow_stats),
    },
    Route {
        method: "GET",
        path: "/v1/stats/series",
        parameters: &[],
        about: "series by metric",
        act: Act::Whole(series),
    },
    Route {
        method: "GET",
        path: "/v1/config",
        parameters: &["key"],
        about: "the configuration and where it comes from",
        act: Act::Whole(config),
    },
    Route {
        method: "POST",
        path: "/v1/config",
        parameters: &["key", "value"],
        about: "gives a key another value",
        act: Act::Whole(set),
    },
    Route {
        method: "DELETE",
        path: "/v1/config",
        parameters: &["key"],
        about: "takes that back",
        act: Act::Whole(unset),
    },
    Route {
        method: "POST",
        path: "/v1/reload",
        parameters: &[],
        about: "reads the configuration file again",
        act: Act::Whole(reload),
    },
    Route {
        method: "GET",
        path: "/v1/bpf",
        parameters: &[],
        about: "programs and maps in the kernel",
        act: Act::Whole(objects),
    },
    Route {
        method: "GET",
        path: "/v1/log",
        parameters: &[],
        about: "the latest lines of the log, at most 1000",
        act: Act::Whole(log),
    },
    Route {
        method: "GET",
        path: "/v1/metrics",
        parameters: &[],
        about: "the page that Prometheus reads",
        act: Act::Whole(metrics),
    },
    Route {
        method: "POST",
        path: "/v1/trace",
        parameters: &["filter", "for"],
        about: "headers of packets as they come, an object a line",
        act: Act::Stream(trace::trace),
    },
    Route { method: "DELETE", path: "/v1/trace", parameters: &[], about: "ends that", act: Act::Whole(trace::end) },
];

/// Answers a request.
pub(super) fn answer(request: &Request<'_>, api: &Arc<dyn Api>, held: &Held) -> Page {
    match find(request) {
        Err(refusal) => refusal.reply().into(),
        Ok((act, parameters)) => {
            let call = Call { parameters, api: Arc::clone(api), held: held.clone() };
            match act {
                Act::Whole(answer) => Page::Soon(Box::new(move || answer(&call).unwrap_or_else(Refusal::reply))),
                Act::Stream(answer) => Page::Stream(Box::new(move |opening| answer(&call, opening))),
            }
        }
    }
}

fn find(request: &Request<'_>) -> Result<(Act, BTreeMap<String, String>), Refusal> {
    if request.has_body {
        return Err(bad("a body, which is not read: parameters come with the path"));
    }
    let parameters = parameters(request.query).map_err(bad)?;
    let route = route(request)?;
    if let Some(unknown) = parameters.keys().find(|name| !route.parameters.contains(&name.as_str())) {
        let valid = if route.parameters.is_empty() { "none".to_owned() } else { route.parameters.join(", ") };
        return Err(bad(format!("there is no parameter {unknown}; valid: {valid}")));
    }
    Ok((route.act, parameters))
}

fn route(request: &Request<'_>) -> Result<&'static Route, Refusal> {
    let mut at_path = ROUTES.iter().filter(|route| route.path == request.path).peekable();
    if at_path.peek().is_none() {
        return Err(Refusal(404, format!("there is no {}; /v1 lists what there is", request.path)));
    }
    let methods: Vec<&str> = at_path.clone().map(|route| route.method).collect();
    at_path
        .find(|route| route.method == request.method)
        .ok_or_else(|| Refusal(405, format!("{} is asked by {}", request.path, methods.join(" or "))))
}

pub(super) fn whole(content_type: &'static str, body: impl Into<Body>) -> Whole {
    Ok(Reply { status: 200, content_type, body: body.into() })
}

pub(super) fn object(value: &impl Serialize) -> Whole {
    let mut body = serde_json::to_vec(value).map_err(|error| unwritten(&error))?;
    body.push(b'\n');
    whole(JSON, body)
}

fn routes(_: &Call) -> Whole {
    let all = ROUTES.iter().map(|route| {
        json!({ "method": route.method, "path": route.path, "parameters": route.parameters, "about": route.about })
    });
    object(&all.collect::<Vec<_>>())
}

fn status(call: &Call) -> Whole {
    object(&call.api.status())
}

fn flow_stats(call: &Call) -> Whole {
    object(&call.api.flow_stats())
}

fn series(call: &Call) -> Whole {
    object(&call.api.series())
}

fn metrics(call: &Call) -> Whole {
    whole(TEXT, call.api.metrics())
}

fn objects(call: &Call) -> Whole {
    object(&call.api.objects())
}

fn log(call: &Call) -> Whole {
    let text: String = call.api.log().into_iter().map(|line| line + "\n").collect();
    whole(TEXT, text.into_bytes())
}

fn config(call: &Call) -> Whole {
    let all = call.api.config();
    match call.key()? {
        None => object(&all),
        Some(key) => object(&all.into_iter().filter(|value| value.key == key.path).collect::<Vec<_>>()),
    }
}

fn set(call: &Call) -> Whole {
    let key = call.needed_key()?;
    let value = call.parameters.get("value").ok_or_else(|| bad("the parameter value is missing"))?;
    call.api.set(key, Some(Given::Text(value.clone()))).map_err(|error| conflict(&error))?;
    object(&json!({ "key": key.path, "value": value }))
}

fn unset(call: &Call) -> Whole {
    let key = call.needed_key()?;
    call.api.set(key, None).map_err(|error| conflict(&error))?;
    object(&json!({ "key": key.path }))
}

fn reload(call: &Call) -> Whole {
    call.api.reload().map_err(|error| conflict(&error))?;
    object(&json!({ "reloaded": true }))
}
