//! The control socket: HTTP over a Unix socket, for `netmon-cli`. Its clients can change the agent, so it serves root and the agent's
//! own user only. docs/reference/control-api.md describes requests and answers.
//!
//! `socket` is its file, `server` serves it with `http`; `call` checks the parameters of a request, `routes` answers it or a
//! `refusal` does, and `held` has what clients hold meanwhile; `flows`, `events` and `trace` are streams, `order` and `top` sort; `api` is what
//! the agent has to offer for that.

mod api;
mod call;
mod events;
mod flows;
mod held;
mod order;
mod refusal;
mod routes;
mod server;
mod socket;
mod top;
mod trace;

pub use api::{
    Api, At, ConfigValue, Event, Events, FlowStats, InterfaceState, MapObject, NamesKind, NamesState, Next, Objects,
    PacketTrace, ProgramObject, SeriesUse, Status, TablePlace, TraceNext,
};
pub use server::{Running, Server, respond};
pub use socket::SocketFile;
pub use top::{Order, RatedFlow, Row, Top, View};
