//! Clients that get no page, and what they are answered instead.

use std::time::Duration;

use hyper::StatusCode;

use super::{Reply, TEXT};
use crate::clients::Phase;

/// Why a client gets no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such page.
    NotFound,
    /// There is for these methods only.
    Method(&'static str),
    /// It was asked for by a name that is not one of this host.
    Host,
    /// Another user is at the other end of the Unix socket.
    User,
    /// It does not speak TLS, and the server does.
    Plain,
    /// It showed no certificate.
    Certificate,
    /// It gave no name and password, or wrong ones.
    Credentials,
    /// To make the page failed; the log says why.
    Failed,
    /// Clients hold all the memory that they may.
    Memory,
    /// This many answers are being made, and there may not be more.
    Full(usize),
    /// It was in this phase when another client needed its place.
    MadeWay(Phase),
    /// It was in this phase for longer than the limit.
    Late(Phase, Duration),
}

impl Refused {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Refused::Plain => 400,
            Refused::Credentials => 401,
            Refused::NotFound => 404,
            Refused::Method(_) => 405,
            Refused::Host | Refused::User | Refused::Certificate => 403,
            Refused::Failed => 500,
            Refused::MadeWay(Phase::Silent | Phase::Asking) | Refused::Late(Phase::Silent | Phase::Asking, _) => 408,
            Refused::Memory | Refused::Full(_) | Refused::MadeWay(_) | Refused::Late(..) => 503,
        }
    }

    /// What a person reads, without an end of line.
    pub fn text(self) -> String {
        match self {
            Refused::NotFound => "no such page".to_owned(),
            Refused::Method(allowed) => format!("method not allowed: use {}", allowed.replace(", ", " or ")),
            Refused::Host => {
                "this server is asked by an address or the name of its host alone, such as localhost".to_owned()
            }
            Refused::User => "only root and the agent's own user may ask here".to_owned(),
            Refused::Plain => "this port speaks TLS: ask with https://".to_owned(),
            Refused::Certificate => "this page needs a client certificate".to_owned(),
            Refused::Credentials => "this page needs the name and the password of a user".to_owned(),
            Refused::Failed => "this page failed; the agent's log says why".to_owned(),
            Refused::Memory => "too many answers are waiting for slow clients".to_owned(),
            Refused::Full(most) => format!("{most} requests are being answered: come again"),
            Refused::MadeWay(Phase::Silent | Phase::Asking) => "nothing was asked for, and others wait".to_owned(),
            Refused::MadeWay(_) => "the answer took too long to make, and others wait: come again".to_owned(),
            Refused::Late(Phase::Silent | Phase::Asking, time) => format!("no whole request came within {time:?}"),
            Refused::Late(_, time) => format!("the answer was not made within {time:?}"),
        }
    }

    /// The same as a page for people.
    pub fn reply(self) -> Reply {
        Reply { status: self.status(), content_type: TEXT, body: format!("{}\n", self.text()).into_bytes().into() }
    }
}

/// An answer as it goes over the wire, for a client to which hyper writes nothing.
pub(super) fn raw(reply: &Reply) -> Vec<u8> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (kind, body) = (reply.content_type, reply.body.as_ref());
    let length = body.len();
    let mut raw =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
            .into_bytes();
    raw.extend_from_slice(body);
    raw
}
