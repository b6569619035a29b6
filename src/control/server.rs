//! The server of the control socket.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::api::Api;
use super::held::Held;
use super::refusal::Refusal;
use super::routes;
use super::socket::SocketFile;
use crate::clients::{Budget, ConnectionLimits, GREETING, Turned};
use crate::http::{self, Page, Pages, Purpose, Refused, Reply, Request, ServerLimits};
use crate::threads::Threads;

const SERVER: Purpose = Purpose { name: "control", flag: "--socket", port: 0, own_name_only: false };
/// Requests at a time.
const CONNECTIONS: usize = 16;
/// Bytes that every request takes, to be read and answered: buffers, and some flows and lines.
const EVERY: usize = 384 << 10;

/// A server that has the socket and does not answer yet.
#[derive(Debug)]
pub struct Server(http::Server<SocketFile>);

/// A server that answers.
pub type Running = http::Running<SocketFile>;

impl Server {
    /// Makes the socket.
    ///
    /// # Errors
    ///
    /// Another agent answers on it, or it cannot be made.
    pub fn bind(path: &Path) -> Result<Server> {
        let (listener, file) = SocketFile::bind(path)?;
        let server = http::Server::unix(SERVER, listener, file, limits());
        server.map(Server).with_context(|| format!("make the socket {}", path.display()))
    }

    /// Counts the clients that are turned away in `turned`, and bounds what they hold by `budget`.
    pub fn count(self, turned: &Arc<Turned>, budget: &Arc<Budget>) -> Server {
        Server(self.0.count(turned, budget))
    }

    /// Answers from now on, on threads named "nm-control".
    ///
    /// # Errors
    ///
    /// There are no descriptors or threads for it.
    pub fn start(self, threads: &Threads, api: Arc<dyn Api>) -> Result<Running> {
        let held = Held { budget: Arc::clone(self.0.budget()), turned: Arc::clone(self.0.turned()) };
        self.0.start(threads, Arc::new(Control { api, held }))
    }
}

/// Answers a client that sends these bytes and no more, as the socket would.
///
/// # Errors
///
/// There are no descriptors or threads for it, `out` cannot be written to, or the answer is a stream whose thread panicked.
pub fn respond(bytes: &[u8], api: Arc<dyn Api>, out: &mut dyn Write) -> io::Result<()> {
    let control = Control { api, held: Held::default() };
    http::respond(SERVER, limits(), Arc::new(control), bytes, out)
}

fn limits() -> ServerLimits {
    ServerLimits {
        places: ConnectionLimits { others: 0, per_address: 0, own: CONNECTIONS },
        one_request: true,
        patience: GREETING,
        header_time: Duration::from_secs(5),
        making: CONNECTIONS,
        // The streams of clients that made way take a moment to end.
        streams: 2 * CONNECTIONS,
        answer_bytes: EVERY,
        ..ServerLimits::default()
    }
}

/// The routes, as pages.
struct Control {
    api: Arc<dyn Api>,
    held: Held,
}

impl Pages for Control {
    fn get(&self, path: &str, query: &str) -> Option<Page> {
        Some(routes::answer(&Request { method: "GET", path, query, has_body: false }, &self.api, &self.held))
    }

    fn answer(&self, request: &Request<'_>) -> Result<Page, Refused> {
        Ok(routes::answer(request, &self.api, &self.held))
    }

    fn refuse(&self, refused: Refused) -> Reply {
        let text = match refused {
            Refused::User => "only root and the agent's own user may use the control socket".to_owned(),
            Refused::Memory => self.held.no_room_text(),
            other => other.text(),
        };
        Refusal(refused.status(), text).reply()
    }
}
