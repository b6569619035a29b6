//! The control socket: HTTP over a Unix socket, for `netmon-cli`. Whoever may use it may change the agent, so it is there for root
//! and the agent's own user only. docs/reference/control-api.md has what it answers.
//!
//! `server` takes connections, `request` reads one, `asked` checks its parameters, `routes` answers it, `order` and `top` sort; `api` is what the agent has to offer for that.

mod api;
mod asked;
mod chunks;
mod flows;
mod order;
mod request;
mod routes;
mod server;
mod top;
mod trace;

pub use api::{
    Api, At, ConfigValue, Event, Events, FlowStats, InterfaceState, MapObject, NamesKind, NamesState, Next, Objects,
    PacketTrace, Place, ProgramObject, SeriesUse, Status, TraceNext,
};
pub use server::{Limits, Running, Server, respond};
pub use top::{Busy, Order, Row, Top, View};
