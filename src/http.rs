//! A small HTTP server for the agent's own pages, over TCP or a Unix socket: hyper on one thread, with a
//! bound on everything a client can make it hold.
//!
//! `page` has what a server is asked and answers: a page is whole, or a stream. `server` has the socket and the stop; `socket` what
//! both kinds of sockets have in common; `accept` who gets a place; `connection` the time limits of one connection, and `target` its
//! first line; `answer` what a request is answered, `body` with, `stream` while it is read, and `refused` if there is no page;
//! `guard` says who may have pages, and `wire` speaks TLS; `own` what addresses and names this host has; `query` the parameters of a request; `limits` what clients may take up.

mod accept;
mod answer;
mod body;
mod connection;
mod guard;
mod limits;
mod own;
mod page;
mod query;
mod refused;
mod respond;
mod server;
mod socket;
mod stream;
mod target;
mod wire;

pub use body::Body;
pub use guard::Guard;
pub use limits::ServerLimits;
pub use page::{METRICS, NoStream, Page, Pages, Reply, Request, TEXT, Waiting};
pub use query::parameters;
pub use refused::Refused;
pub use respond::respond;
pub use server::{Purpose, Running, Server};
pub use stream::{Chunks, Opening};
