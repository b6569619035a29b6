//! The thread that sees the configuration file change: written in place, replaced by a rename, or, as Kubernetes does with a ConfigMap,
//! by a symlink on the way to it. That it cannot be read is a change too.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use crate::agent::Handle;
use crate::regular_file;
use crate::threads::Thread;

/// Links followed from the file's name to the file.
const HOPS: usize = 16;
/// What Kubernetes swaps to change all files of a ConfigMap at once.
const CONFIG_MAP_LINK: &str = "..data";
/// Between two renames there may be no file. If it is missing for longer than this, that is reported.
const SETTLED: Duration = Duration::from_secs(1);

/// The running thread. It ends with the value.
pub(in crate::agent) struct ConfigWatch {
    stop: Arc<EventFd>,
    thread: Option<Thread<()>>,
}

impl ConfigWatch {
    /// Makes `handle` reload whenever the content of the file has changed.
    pub(in crate::agent) fn start(path: &Path, handle: Handle) -> Result<ConfigWatch> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("create an eventfd")?);
        let mut file = File::watch(path)?;
        let stopped = Arc::clone(&stop);
        let threads = handle.threads().clone();
        let thread = threads.start("nm-config", move |_| {
            loop {
                match file.wait(&stopped).with_context(|| format!("watch {}", file.path.display()))? {
                    Event::Stop => return Ok(()),
                    Event::Other => {}
                    Event::Changed => {
                        if let Err(error) = handle.reload() {
                            log::error!("{error:#}");
                        }
                    }
                }
            }
        })?;
        Ok(ConfigWatch { stop, thread: Some(thread) })
    }

    pub(in crate::agent) fn stop(mut self) -> Result<()> {
        self.end();
        self.thread.take().map_or(Ok(()), Thread::stop)
    }

    fn end(&self) {
        // Only a counter near 2^64 could refuse.
        let _ = self.stop.write(1);
    }
}

impl Drop for ConfigWatch {
    fn drop(&mut self) {
        self.end();
    }
}

enum Event {
    Stop,
    Changed,
    Other,
}

struct File {
    path: PathBuf,
    inotify: Inotify,
    /// Names of the file, and of links to it, in the folders that are watched.
    names: BTreeSet<OsString>,
    /// Its content, or why it cannot be read.
    content: Result<Vec<u8>, String>,
    /// When to look again without an event.
    again: Option<Instant>,
}

impl File {
    fn watch(path: &Path) -> Result<File> {
        let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("watch files")?;
        let mut file = File { path, inotify, names: BTreeSet::new(), content: Ok(Vec::new()), again: None };
        file.follow()?;
        file.content = file.read();
        Ok(file)
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        regular_file::read(&self.path).map_err(|error| error.to_string())
    }

    /// Watches the folders of the file and of all links on the way to it. A folder that is watched already stays so.
    fn follow(&mut self) -> Result<()> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_ATTRIB;
        self.names = BTreeSet::from([OsString::from(CONFIG_MAP_LINK)]);
        let mut at = self.path.clone();
        for hop in 0..HOPS {
            let (Some(folder), Some(name)) = (at.parent(), at.file_name()) else { break };
            match self.inotify.add_watch(folder, flags) {
                // The link leads nowhere for the moment: reading the file reports that.
                Err(_) if hop > 0 => break,
                watched => watched.with_context(|| format!("watch {}", folder.display()))?,
            };
            self.names.insert(name.to_owned());
            match std::fs::read_link(&at) {
                Ok(target) => at = folder.join(target),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn wait(&mut self, stop: &EventFd) -> Result<Event> {
        let mut fds =
            [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let patience =
            self.again.map(|again| again.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let patience = patience.map_or(Ok(PollTimeout::NONE), PollTimeout::try_from).context("wait for a change")?;
        match poll(&mut fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for a change"),
        }
        if fds[1].any().unwrap_or(false) {
            return Ok(Event::Stop);
        }
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => Vec::new(),
            Err(errno) => return Err(errno).context("read changes of files"),
        };
        let is_time = self.again.is_some_and(|again| again <= Instant::now());
        let concerned = events.iter().any(|event| self.concerns(event));
        Ok(if is_time || concerned { self.look(is_time) } else { Event::Other })
    }

    /// Whether the content has changed; `settled` if a missing file had time to come back.
    fn look(&mut self, settled: bool) -> Event {
        let followed = self.follow();
        let content = self.read();
        let again = self.again.take();
        let soon = Instant::now() + SETTLED;
        let mut event = Event::Other;
        if content != self.content {
            if content.is_err() && !settled {
                self.again = Some(again.unwrap_or(soon));
            } else {
                self.content = content;
                event = Event::Changed;
            }
        }
        // There is no event when a folder comes back.
        if followed.is_err() {
            self.again = self.again.or(Some(soon));
        }
        event
    }

    /// Whether an event may mean another content. A file that was just created is empty, unless it is a hard link; a symlink or a FIFO
    /// that was just created is complete.
    fn concerns(&self, event: &InotifyEvent) -> bool {
        // If a folder is not watched any more, it is gone.
        let lost = event.mask.intersects(AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_IGNORED);
        let made = event.mask.contains(AddWatchFlags::IN_CREATE);
        let named = event.name.as_ref().is_some_and(|name| self.names.contains(name));
        let is_empty = || self.path.symlink_metadata().is_ok_and(|there| there.is_file() && there.nlink() == 1);
        // A change of mode may come before a file is completely written.
        let is_mode = event.mask.contains(AddWatchFlags::IN_ATTRIB);
        let differs = || self.content.is_ok() != self.read().is_ok();
        lost || named && (!made || !is_empty()) && (!is_mode || differs())
    }
}
