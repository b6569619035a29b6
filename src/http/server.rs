//! The server: its socket, its thread and its end.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::accept::Door;
use super::answer::Answers;
use super::guard::Guard;
use super::socket::Bound;
use super::{Pages, ServerLimits};
use crate::clients::{Budget, Turned};
use crate::threads::{Thread, Threads};

/// How long the server waits for pages in the making when it stops.
const PAGE_GRACE: Duration = Duration::from_secs(1);
/// How long a thread that has made a page waits for another one to make.
const PAGE_THREAD_IDLE: Duration = Duration::from_secs(2);

/// What a server is for, as it appears in its log, in its thread's name and in its errors.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// One word.
    pub name: &'static str,
    /// The flag that sets its address.
    pub flag: &'static str,
    /// Its usual port.
    pub port: u16,
    /// It answers only requests for an address or a name of this host: otherwise a page from anywhere could ask it through a browser
    /// on this host.
    pub own_name_only: bool,
}

/// A server that has its socket but does not answer yet. `A` is where that is.
#[derive(Debug)]
pub struct Server<A = SocketAddr> {
    purpose: Purpose,
    listener: Bound,
    address: A,
    limits: ServerLimits,
    turned: Arc<Turned>,
    budget: Arc<Budget>,
    guard: Option<Arc<Guard>>,
}

impl Server<SocketAddr> {
    /// Binds at once, so that a taken port is an error at start.
    ///
    /// `":9090"` is port 9090 of every address, IPv6 and IPv4.
    pub fn bind(purpose: Purpose, address: &str, limits: ServerLimits) -> anyhow::Result<Server> {
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
        Ok(Server::new(purpose, Bound::Tcp(listener), address, limits))
    }

    /// The address that the server has, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl<A> Server<A> {
    /// A server of a Unix socket, for root and the agent's own user alone. `address` goes when the server has ended.
    ///
    /// # Errors
    ///
    /// The socket cannot be set not to block.
    pub fn unix(purpose: Purpose, listener: UnixListener, address: A, limits: ServerLimits) -> io::Result<Server<A>> {
        listener.set_nonblocking(true)?;
        Ok(Server::new(purpose, Bound::Unix(listener), address, limits))
    }

    fn new(purpose: Purpose, listener: Bound, address: A, limits: ServerLimits) -> Server<A> {
        Server { purpose, listener, address, limits, turned: Arc::default(), budget: Arc::default(), guard: None }
    }

    /// Counts the clients that are turned away in `turned`, and bounds what they hold by `budget`.
    pub fn count(self, turned: &Arc<Turned>, budget: &Arc<Budget>) -> Server<A> {
        Server { turned: Arc::clone(turned), budget: Arc::clone(budget), ..self }
    }

    /// Protects the pages that are not open to everybody.
    pub fn protect(self, guard: Option<Arc<Guard>>) -> Server<A> {
        Server { guard, ..self }
    }

    /// Clients that are turned away.
    pub fn turned(&self) -> &Arc<Turned> {
        &self.turned
    }

    /// What bounds the memory that clients hold.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Serves on a thread of its own, named "nm-" and the purpose, until the result is stopped or dropped.
    ///
    /// # Errors
    ///
    /// There are no descriptors or threads for it.
    pub fn start(self, threads: &Threads, pages: Arc<dyn Pages>) -> anyhow::Result<Running<A>> {
        let Server { purpose, listener, address, limits, turned, budget, guard } = self;
        let name = purpose.name;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .thread_name(format!("nm-{name}-page"))
            .thread_keep_alive(PAGE_THREAD_IDLE)
            .max_blocking_threads(limits.making)
            .build()
            .with_context(|| format!("start the {name} server: create its event loop"))?;
        let listener = {
            let _inside = runtime.enter();
            listener.listen().with_context(|| format!("start the {name} server"))?
        };
        let (stop, stopped) = watch::channel(());
        let counted = Arc::clone(&turned);
        let thread = threads.start(&format!("nm-{name}"), move |_| {
            let door = Door::new(purpose, limits, counted, budget, guard);
            let answers = Rc::new(Answers::new(Rc::clone(&door), pages, stopped.clone()));
            let connections = LocalSet::new();
            connections.block_on(&runtime, door.serve(listener, Rc::clone(&answers), stopped));
            // Those that are left end here, and so do the streams that they read.
            drop(connections);
            answers.streams.join();
            // Pages cannot be interrupted; the agent's exit must not hang on one.
            runtime.shutdown_timeout(PAGE_GRACE);
            Ok(())
        })?;
        Ok(Running { turned, stop, thread, address })
    }
}

/// A server that answers. It is stopped, and its thread joined, when the value is dropped.
pub struct Running<A = SocketAddr> {
    turned: Arc<Turned>,
    /// Nothing is ever sent: that it is gone is the message. It goes before the thread is joined.
    stop: watch::Sender<()>,
    thread: Thread<()>,
    address: A,
}

impl Running<SocketAddr> {
    /// The address that the server has.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl<A> Running<A> {
    /// Where it is.
    pub fn address(&self) -> &A {
        &self.address
    }

    /// Clients that were turned away.
    pub fn turned(&self) -> &Turned {
        &self.turned
    }

    /// Closes the socket, gives answers that are being written a moment, and ends the thread.
    ///
    /// # Errors
    ///
    /// The thread panicked.
    pub fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.thread.stop()
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
