//! Requests that are refused. All errors are JSON: `{"error": "…"}`.

use serde_json::json;

use super::routes::JSON;
use crate::http::{NoStream, Reply};

/// An HTTP status and a text that says why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) u16, pub(super) String);

impl Refusal {
    pub(super) fn reply(self) -> Reply {
        let body = format!("{}\n", json!({ "error": self.1 }));
        Reply { status: self.0, content_type: JSON, body: body.into_bytes().into() }
    }
}

impl From<Refusal> for NoStream {
    fn from(refusal: Refusal) -> NoStream {
        NoStream::Instead(refusal.reply())
    }
}

/// The request is wrong.
pub(super) fn bad(what: impl Into<String>) -> Refusal {
    Refusal(400, what.into())
}

/// The agent cannot do what is asked of it.
pub(super) fn conflict(error: &anyhow::Error) -> Refusal {
    Refusal(409, format!("{error:#}"))
}

/// An answer could not be serialised, which no known value does.
pub(super) fn unwritten(error: &serde_json::Error) -> Refusal {
    Refusal(500, format!("write the answer: {error}"))
}
