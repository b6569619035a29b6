//! A small HTTP server for the agent's own pages, metrics and debugging: hyper on one thread, with a
//! bound on everything a client can make it hold.
//!
//! This file has the port and the stop; `accept` who gets a place; `connection` the time limits of one connection; `answer` what a
//! request is answered, and `body` with; `own` what addresses and names this host has; `query` the parameters of a request.

mod accept;
mod answer;
mod body;
mod connection;
mod own;
mod query;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::clients::{Budget, Places, Turned};
use accept::Door;
pub use body::Body;
pub use query::parameters;

/// The content type of a page for people.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The content type of the Prometheus text format.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long the server waits for pages in the making when it stops.
const PAGE_GRACE: Duration = Duration::from_secs(1);
/// Pages in the making at a time; more wait for their turn.
const MAKING_MOST: usize = 4;
/// How long `stop` waits for the thread, which a page may be holding up.
const STOP_WAIT: Duration = Duration::from_secs(3);

/// What a path answers.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The content type, such as [`TEXT`] or [`METRICS`].
    pub content_type: &'static str,
    /// The body, not compressed.
    pub body: Body,
}

/// A page, at once or once it is made.
pub enum Page {
    /// This is it.
    Now(Reply),
    /// It may have to wait for others, or take some time: it is made on another thread.
    Soon(Box<dyn FnOnce() -> Reply + Send>),
    /// It takes a while: it is made on another thread, for GET alone.
    Later(Box<dyn FnOnce(&Waiting) -> Reply + Send>),
}

impl From<Reply> for Page {
    fn from(reply: Reply) -> Page {
        Page::Now(reply)
    }
}

/// Who waits for a page that takes a while.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// Nobody does any more: the client has gone, or the server stops.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The pages; called on the server's own thread, one at a time: whatever waits there keeps everybody waiting.
pub trait Pages: Send + Sync + 'static {
    /// The page for a path and a query (what comes after "?"), or `None` for a 404.
    fn get(&self, path: &str, query: &str) -> Option<Page>;
}

/// What a server is for, as its log, its thread and its errors say.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// In a word.
    pub name: &'static str,
    /// The flag that gives its address.
    pub flag: &'static str,
    /// Its usual port.
    pub port: u16,
    /// Only those may ask it that know it by an address or a name of this host: else a page from anywhere could, in a browser here.
    pub own_name_only: bool,
}

/// What clients may take up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time. For one more, one makes way that makes no use of its place; if there is none, it is answered 503 and
    /// closed. Connections above half of this number are closed after one answer.
    pub places: Places,
    /// Size of a request's line and headers; more is answered 431.
    pub header_bytes: usize,
    /// From the opening of a connection, or from a later request's first byte, to the end of the
    /// request's header.
    pub header_time: Duration,
    /// From the end of an answer to the next request's first byte. Longer than a scrape interval
    /// of a minute, so that Prometheus keeps its connection.
    pub idle: Duration,
    /// The longest that writing an answer may take.
    pub connection_time: Duration,
    /// The longest that a page may be in the making.
    pub making_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            places: Places { others: 256, per_address: 8, own: 16 },
            header_bytes: 16 << 10,
            header_time: Duration::from_secs(5),
            idle: Duration::from_secs(90),
            connection_time: Duration::from_secs(30),
            making_time: Duration::from_secs(600),
        }
    }
}

/// A server that has its port but does not answer yet.
pub struct Server {
    purpose: Purpose,
    listener: StdListener,
    address: SocketAddr,
    limits: Limits,
    turned: Arc<Turned>,
    budget: Arc<Budget>,
}

impl Server {
    /// Binds at once, so that a taken port is an error at start.
    ///
    /// `":9090"` is port 9090 of every address, IPv6 and IPv4.
    pub fn bind(purpose: Purpose, address: &str, limits: Limits) -> anyhow::Result<Server> {
        let Purpose { flag, port, .. } = purpose;
        let bound = match address.strip_prefix(':').map(str::parse::<u16>) {
            Some(Ok(port)) => match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
                // Anything but these two can be a kernel without IPv6; if it is not, IPv4 fails
                // in the same way.
                Err(e) if !matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {
                    listen((Ipv4Addr::UNSPECIFIED, port).into())
                }
                bound => bound,
            },
            None if let Ok(address) = address.parse() => listen(address),
            _ => bail!(
                "listen on {address:?}: not an address with a port: give {flag} as :{port} \
                 (all addresses of this host), 127.0.0.1:{port} or [::1]:{port}"
            ),
        };
        let (listener, address) = bound
            .map_err(|e| match e.kind() {
                ErrorKind::AddrInUse => {
                    anyhow!("address already in use; another program has the port: choose one with {flag}")
                }
                ErrorKind::AddrNotAvailable => {
                    anyhow!("no interface of this host has the address: choose one with {flag}")
                }
                ErrorKind::PermissionDenied => anyhow!(
                    "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE: choose a \
                     higher one with {flag}"
                ),
                _ => anyhow!("{e}: choose another address with {flag}"),
            })
            .with_context(|| format!("listen on {address}"))?;
        Ok(Server { purpose, listener, address, limits, turned: Arc::default(), budget: Arc::default() })
    }

    /// Counts those that are turned away here, and bounds by this what its clients hold.
    pub fn count(self, turned: &Arc<Turned>, budget: &Arc<Budget>) -> Server {
        Server { turned: Arc::clone(turned), budget: Arc::clone(budget), ..self }
    }

    /// The address that the server has, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves on a thread of its own, named "nm-" and the purpose, until the result is stopped or dropped.
    pub fn start(self, pages: Arc<dyn Pages>) -> anyhow::Result<Running> {
        let name = self.purpose.name;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .thread_name(format!("nm-{name}-page"))
            .max_blocking_threads(MAKING_MOST)
            .build()
            .with_context(|| format!("start the {name} server: create its event loop"))?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(self.listener).with_context(|| format!("start the {name} server"))?
        };
        let (stop, stopped) = watch::channel(());
        let turned = Arc::clone(&self.turned);
        let thread = thread::Builder::new()
            .name(format!("nm-{name}"))
            .spawn(move || {
                let all =
                    Door::new(self.purpose, self.limits, self.turned, self.budget, pages).serve(listener, stopped);
                LocalSet::new().block_on(&runtime, all);
                runtime.shutdown_timeout(PAGE_GRACE);
            })
            .with_context(|| format!("start the {name} server's thread"))?;
        Ok(Running { name, address: self.address, turned, stop, thread })
    }
}

/// A server that answers; dropping it stops it without waiting.
pub struct Running {
    name: &'static str,
    address: SocketAddr,
    turned: Arc<Turned>,
    /// Nothing is ever sent: that it is gone is the message.
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
}

impl Running {
    /// The address that the server has.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Clients that were turned away.
    pub fn turned(&self) -> &Turned {
        &self.turned
    }

    /// Its thread has ended, though nobody stopped it.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Closes the port, gives answers that are being written a moment, and ends the thread.
    pub fn stop(self) -> anyhow::Result<()> {
        let name = self.name;
        drop(self.stop);
        let end = Instant::now() + STOP_WAIT;
        while !self.thread.is_finished() {
            // A page cannot be interrupted; the agent's exit must not hang on it.
            if Instant::now() > end {
                bail!("stop the {name} server: a page has been in the making for {STOP_WAIT:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.thread.join().map_err(|_| anyhow!("the {name} server's thread panicked"))
    }
}

fn listen(address: SocketAddr) -> io::Result<(StdListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Not left to net.ipv6.bindv6only.
        socket.set_only_v6(false)?;
    }
    // A restarted agent gets its port although old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    let listener = StdListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}
