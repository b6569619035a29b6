//! The socket: who may connect, how many at a time, and how long.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use socket2::SockRef;

use super::api::Api;
use super::request::{self, Refusal};
use super::routes::{self, Held};
use crate::clients::{Budget, Client, Close, GREETING, Peer, Phase, Places, Reason, Slots, Turned};

/// Without descriptors, accept() fails at once and for ever: do not spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What clients may take up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests at a time, each with a thread. For one more, one makes way that makes no use of its place; if there is none, it is
    /// told to come again.
    pub connections: usize,
    /// Size of a request.
    pub request_bytes: usize,
    /// From the opening of a connection to the end of the request.
    pub request_time: Duration,
    /// A client that reads nothing for so long has gone.
    pub write_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 16,
            request_bytes: 16 << 10,
            request_time: Duration::from_secs(5),
            write_time: Duration::from_secs(10),
        }
    }
}

/// A socket that is there and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    turned: Arc<Turned>,
    budget: Arc<Budget>,
}

impl Server {
    /// Makes the socket, and the folder for it. One that a dead agent left is replaced; one that answers is an error.
    pub fn bind(path: &Path) -> Result<Server> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        }
        if UnixStream::connect(path).is_ok() {
            bail!("another agent answers on {}: stop it, or choose another path with --socket", path.display());
        }
        if fs::symlink_metadata(path).is_ok_and(|there| !is_socket(&there)) {
            bail!("{} is there and no socket: choose another path with --socket", path.display());
        }
        // Nobody can connect before the mode is right: it is made aside and renamed.
        let aside = path.with_extension(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&aside);
        let made = (|| -> io::Result<(UnixListener, u64)> {
            let listener = UnixListener::bind(&aside)?;
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
            fs::rename(&aside, path)?;
            listener.set_nonblocking(true)?;
            Ok((listener, fs::symlink_metadata(path)?.ino()))
        })();
        let (listener, inode) = made.map_err(|error| {
            let _ = fs::remove_file(&aside);
            anyhow::Error::new(error).context(format!("make the socket {}", path.display()))
        })?;
        Ok(Server { listener, path: path.to_owned(), inode, turned: Arc::default(), budget: Arc::default() })
    }

    /// Counts those that are turned away here, and bounds by this what its clients hold.
    pub fn count(self, turned: &Arc<Turned>, budget: &Arc<Budget>) -> Server {
        Server { turned: Arc::clone(turned), budget: Arc::clone(budget), ..self }
    }

    /// Answers from now on, on threads named "nm-control".
    pub fn start(self, limits: Limits, api: Arc<dyn Api>) -> Result<Running> {
        let wakeup = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("create an eventfd")?);
        let stop = Arc::new(AtomicBool::new(false));
        let (woken, stopped) = (Arc::clone(&wakeup), Arc::clone(&stop));
        let (path, inode) = (self.path.clone(), self.inode);
        let slots = Slots::new(Places { others: 0, per_address: 0, own: limits.connections });
        let door = Arc::new(Door {
            limits,
            api,
            turned: self.turned,
            budget: self.budget,
            slots: Mutex::new(slots),
            threads: Mutex::default(),
            stop: stopped,
        });
        let listener = self.listener;
        let thread = Builder::new()
            .name("nm-control".to_owned())
            .spawn(move || accept(&listener, &door, &woken))
            .context("start the thread of the control socket")?;
        Ok(Running { path, inode, wakeup, stop, thread: Some(thread) })
    }
}

/// A socket that answers; dropping it ends that and removes the socket.
pub struct Running {
    path: PathBuf,
    inode: u64,
    wakeup: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Running {
    /// Its thread has ended, though nobody stopped it.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Only a counter near 2^64 could refuse.
        let _ = self.wakeup.write(1);
        if let Some(thread) = self.thread.take() {
            // It has said why, if it panicked.
            let _ = thread.join();
        }
        // Not that of an agent that came after.
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_socket(there: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    there.file_type().is_socket()
}

/// What all connections share.
struct Door {
    limits: Limits,
    api: Arc<dyn Api>,
    turned: Arc<Turned>,
    budget: Arc<Budget>,
    slots: Mutex<Slots<Connection>>,
    /// Those of connections that made way may take a moment to end.
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<AtomicBool>,
}

struct Connection(UnixStream);

impl Close for Connection {
    fn has_sent(&self) -> bool {
        let flags = nix::libc::MSG_PEEK | nix::libc::MSG_DONTWAIT;
        SockRef::from(&self.0).recv_with_flags(&mut [MaybeUninit::uninit()], flags).is_ok_and(|bytes| bytes > 0)
    }
}

impl Connection {
    /// Ends it, whatever it `was` doing.
    fn close(&self, was: Phase) {
        let refusal = match was {
            Phase::Silent | Phase::Asking => Some(Refusal(408, "nothing was asked for, and others wait".to_owned())),
            Phase::Making => {
                Some(Refusal(503, "the answer took too long to make, and others wait: come again".to_owned()))
            }
            Phase::Idle | Phase::Answering | Phase::Gone => None,
        };
        if let Some(refusal) = refusal {
            let _ = refuse_at_once(&self.0, &refusal);
        }
        // It may have ended by itself.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// As far as it goes: nobody is to wait for this client.
fn refuse_at_once(stream: &UnixStream, refusal: &Refusal) -> io::Result<()> {
    let mut answer = Vec::new();
    routes::refuse(&mut answer, refusal)?;
    let flags = nix::libc::MSG_DONTWAIT | nix::libc::MSG_NOSIGNAL;
    SockRef::from(stream).send_with_flags(&answer, flags).map(drop)
}

fn accept(listener: &UnixListener, door: &Arc<Door>, wakeup: &EventFd) {
    loop {
        let mut fds =
            [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(wakeup.as_fd(), PollFlags::POLLIN)];
        // EINTR is as good as nothing.
        let _ = poll(&mut fds, PollTimeout::NONE);
        if door.stop.load(Ordering::Relaxed) {
            return door.leave();
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = door.enter(stream) {
                    log::debug!("control: {error:#}");
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                log::debug!("control: accept a connection: {error}; trying again");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// A connection's place, while it is open.
struct Seat {
    door: Arc<Door>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.door.slots().leave(self.number);
    }
}

impl Door {
    fn slots(&self) -> std::sync::MutexGuard<'_, Slots<Connection>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_way(&self, now: Instant) -> Result<Option<(Phase, Connection)>, Reason> {
        let mut threads = self.threads();
        for ended in threads.extract_if(.., |thread| thread.is_finished()) {
            // It has said why, if it panicked.
            let _ = ended.join();
        }
        if threads.len() >= 2 * self.limits.connections {
            return Err(Reason::Full);
        }
        self.slots().make_way(Peer::Own, now)
    }

    fn enter(self: &Arc<Door>, stream: UnixStream) -> Result<()> {
        let most = self.limits.connections;
        let room = self.make_way(Instant::now()).or_else(|_| {
            // They have just come, all of them: some may be about to say nothing.
            std::thread::sleep(GREETING);
            self.make_way(Instant::now())
        });
        match room {
            Ok(None) => {}
            Ok(Some((was, other))) => {
                self.turned.count(Reason::MadeWay);
                other.close(was);
            }
            Err(reason) => {
                self.turned.count(reason);
                return Ok(refuse_at_once(
                    &stream,
                    &Refusal(503, format!("{most} requests are being answered: come again")),
                )?);
            }
        }
        let client = Arc::new(Client::new(Instant::now()));
        let connection = Connection(stream.try_clone().context("watch a connection")?);
        let number = {
            let mut slots = self.slots();
            slots.enter(Peer::Own, Arc::clone(&client), connection);
            slots.next() - 1
        };
        let seat = Seat { door: Arc::clone(self), number };
        let serve = move || {
            if let Err(error) = serve(stream, &client, &seat.door) {
                log::debug!("control: {error:#}");
            }
        };
        let thread = Builder::new().name("nm-control".to_owned()).spawn(serve).context("start a thread")?;
        self.threads().push(thread);
        Ok(())
    }

    /// Ends all connections: nobody waits for a client that does not read.
    fn leave(&self) {
        for connection in self.slots().drain() {
            let _ = connection.0.shutdown(Shutdown::Both);
        }
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// A connection's stream, of which it is noted when it moves.
struct Noted<'a> {
    stream: &'a UnixStream,
    client: &'a Client,
}

impl Write for Noted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.client.enter(Phase::Answering, Instant::now());
        if self.client.has_made_way() {
            return Err(ErrorKind::ConnectionAborted.into()); // the refusal is all that it is sent
        }
        let written = self.stream.write(bytes);
        self.client.moved(Instant::now());
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Answers a client that sends these bytes and no more, as the socket would.
pub fn respond(bytes: &[u8], api: &dyn Api, out: &mut dyn Write) -> io::Result<()> {
    let held = Held { budget: &Arc::default(), turned: &Turned::default() };
    match request::parse(bytes) {
        Ok(None) => Ok(()),
        Ok(Some(request)) => routes::answer(&request, api, &held, out, &AtomicBool::new(false)),
        Err(refusal) => routes::refuse(out, &refusal),
    }
}

fn serve(mut stream: UnixStream, client: &Client, door: &Door) -> Result<()> {
    let limits = &door.limits;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(limits.write_time))?;
    let peer = getsockopt(&stream, PeerCredentials).context("ask who connects")?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        log::warn!("control: user {} (process {}) was turned away", peer.uid(), peer.pid());
        let refusal = Refusal(403, "only root and the agent's own user may use the control socket".to_owned());
        routes::refuse(&mut stream, &refusal)?;
        return Ok(());
    }
    let part = || client.enter(Phase::Asking, Instant::now());
    match request::read(&mut stream, limits.request_bytes, limits.request_time, part) {
        Ok(None) => Ok(()),
        Ok(Some(request)) => {
            if !client.enter(Phase::Making, Instant::now()) {
                return Ok(()); // it has just made way
            }
            let mut out = io::BufWriter::with_capacity(64 << 10, Noted { stream: &stream, client });
            let held = Held { budget: &door.budget, turned: &door.turned };
            routes::answer(&request, &*door.api, &held, &mut out, &door.stop)?;
            Ok(out.flush()?)
        }
        Err(refusal) => Ok(routes::refuse(&mut stream, &refusal)?),
    }
}
