//! The socket: who may connect, how many at a time, and how long.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

use super::api::Api;
use super::request::{self, Refusal};
use super::routes;

/// Without descriptors, accept() fails at once and for ever: do not spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What clients may take up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests at a time, each with a thread; one more is told to come again.
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
        Ok(Server { listener, path: path.to_owned(), inode })
    }

    /// Answers from now on, on threads named "nm-control".
    pub fn start(self, limits: Limits, api: Arc<dyn Api>) -> Result<Running> {
        let wakeup = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("create an eventfd")?);
        let stop = Arc::new(AtomicBool::new(false));
        let (woken, stopped) = (Arc::clone(&wakeup), Arc::clone(&stop));
        let (path, inode) = (self.path.clone(), self.inode);
        let thread = Builder::new()
            .name("nm-control".to_owned())
            .spawn(move || accept(&self.listener, &limits, &api, &woken, &stopped))
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

fn accept(listener: &UnixListener, limits: &Limits, api: &Arc<dyn Api>, wakeup: &EventFd, stop: &Arc<AtomicBool>) {
    let mut open = Connections::default();
    loop {
        let mut fds =
            [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(wakeup.as_fd(), PollFlags::POLLIN)];
        // EINTR is as good as nothing.
        let _ = poll(&mut fds, PollTimeout::NONE);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        open.reap();
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(error) => {
                log::debug!("control: accept a connection: {error}; trying again");
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if open.0.len() >= limits.connections {
            // As far as it goes at once: nobody is to wait for this client.
            let _ = stream.set_nonblocking(true);
            let busy = Refusal(503, format!("{} requests are being answered: come again", limits.connections));
            let _ = routes::refuse(&mut &stream, &busy);
            continue;
        }
        let (limits, api, stop) = (limits.clone(), Arc::clone(api), Arc::clone(stop));
        let started = open.start(stream, move |stream| {
            if let Err(error) = serve(stream, &limits, &*api, &stop) {
                log::debug!("control: {error:#}");
            }
        });
        if let Err(error) = started {
            log::debug!("control: start a thread: {error}");
        }
    }
}

/// Connections that are open, and the threads that serve them. They end with the value.
#[derive(Default)]
struct Connections(Vec<(UnixStream, JoinHandle<()>)>);

impl Connections {
    fn start(&mut self, stream: UnixStream, serve: impl FnOnce(UnixStream) + Send + 'static) -> io::Result<()> {
        let (handle, closing) = (stream.try_clone()?, Closing(stream.try_clone()?));
        let thread = Builder::new().name("nm-control".to_owned()).spawn(move || {
            let _closing = closing;
            serve(stream);
        })?;
        self.0.push((handle, thread));
        Ok(())
    }

    /// Forgets those that have ended.
    fn reap(&mut self) {
        for (_, thread) in self.0.extract_if(.., |(_, thread)| thread.is_finished()) {
            // It has said why, if it panicked.
            let _ = thread.join();
        }
    }
}

/// Ends a connection, whoever else has a handle to it.
struct Closing(UnixStream);

impl Drop for Closing {
    fn drop(&mut self) {
        // The client may have done so.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        for (stream, thread) in self.0.drain(..) {
            // Nobody waits for a client that does not read.
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

/// Answers a client that sends these bytes and no more, as the socket would.
pub fn respond(bytes: &[u8], api: &dyn Api, out: &mut dyn Write) -> io::Result<()> {
    match request::parse(bytes) {
        Ok(None) => Ok(()),
        Ok(Some(request)) => routes::answer(&request, api, out, &AtomicBool::new(false)),
        Err(refusal) => routes::refuse(out, &refusal),
    }
}

fn serve(mut stream: UnixStream, limits: &Limits, api: &dyn Api, stop: &AtomicBool) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(limits.write_time))?;
    let peer = getsockopt(&stream, PeerCredentials).context("ask who connects")?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        log::warn!("control: user {} (process {}) was turned away", peer.uid(), peer.pid());
        let refusal = Refusal(403, "only root and the agent's own user may use the control socket".to_owned());
        routes::refuse(&mut stream, &refusal)?;
        return Ok(());
    }
    match request::read(&mut stream, limits.request_bytes, limits.request_time) {
        Ok(None) => Ok(()),
        Ok(Some(request)) => {
            let mut out = io::BufWriter::with_capacity(64 << 10, &stream);
            routes::answer(&request, api, &mut out, stop)?;
            Ok(out.flush()?)
        }
        Err(refusal) => Ok(routes::refuse(&mut stream, &refusal)?),
    }
}
