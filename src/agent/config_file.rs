//! The thread that sees the configuration file change: written in place, renamed into its place, or, as Kubernetes does with a
//! ConfigMap, by a symlink on the way to it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use super::shared::Handle;

/// Links followed from the file's name to the file.
const HOPS: usize = 16;
/// What Kubernetes swaps to change all files of a ConfigMap at once.
const CONFIG_MAP_LINK: &str = "..data";

/// The running thread. It ends with the value.
pub struct ConfigWatch {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl ConfigWatch {
    /// Has `handle` reload whenever the file has another content.
    pub fn start(path: &Path, handle: Handle) -> Result<ConfigWatch> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("create an eventfd")?);
        let mut file = File::watch(path)?;
        let stopped = Arc::clone(&stop);
        let thread = Builder::new()
            .name("nm-config".to_owned())
            .spawn(move || {
                loop {
                    match file.wait(&stopped) {
                        Ok(Event::Stop) => return,
                        Ok(Event::Other) => {}
                        Ok(Event::Changed) => {
                            if let Err(error) = handle.reload() {
                                log::error!("{error:#}");
                            }
                        }
                        Err(error) => return log::error!("{} is not watched any more: {error:#}", file.path.display()),
                    }
                }
            })
            .context("start the thread that watches the configuration file")?;
        Ok(ConfigWatch { stop, thread: Some(thread) })
    }
}

impl Drop for ConfigWatch {
    fn drop(&mut self) {
        // Only a counter near 2^64 could refuse.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // It has said why, if it panicked.
            let _ = thread.join();
        }
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
    /// Of the file, and of links to it, in the folders that are watched.
    names: BTreeSet<OsString>,
    content: Option<Vec<u8>>,
}

impl File {
    fn watch(path: &Path) -> Result<File> {
        let path = std::path::absolute(path).with_context(|| format!("the place of {}", path.display()))?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("watch files")?;
        let mut file = File { path, inotify, names: BTreeSet::new(), content: None };
        file.follow()?;
        file.content = std::fs::read(&file.path).ok();
        Ok(file)
    }

    /// Watches the folders of the file and of all links on the way to it. A folder that is watched already stays so.
    fn follow(&mut self) -> Result<()> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        self.names = BTreeSet::from([OsString::from(CONFIG_MAP_LINK)]);
        let mut at = self.path.clone();
        for _ in 0..HOPS {
            let (Some(folder), Some(name)) = (at.parent(), at.file_name()) else { break };
            match self.inotify.add_watch(folder, flags) {
                // Of a link that leads nowhere, for the moment.
                Err(Errno::ENOENT) => break,
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
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for a change"),
        }
        if fds[1].any().unwrap_or(false) {
            return Ok(Event::Stop);
        }
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => return Ok(Event::Other),
            Err(errno) => return Err(errno).context("read what changed"),
        };
        if !events.iter().any(|event| self.concerns(event)) {
            return Ok(Event::Other);
        }
        self.follow()?;
        match std::fs::read(&self.path) {
            Ok(content) if self.content.as_ref() == Some(&content) => Ok(Event::Other),
            Ok(content) => {
                self.content = Some(content);
                Ok(Event::Changed)
            }
            // Between two renames. If it stays away, what was read last holds.
            Err(_) => Ok(Event::Other),
        }
    }

    /// A file that was just made is empty; a link that was just made leads to the file.
    fn concerns(&self, event: &InotifyEvent) -> bool {
        let lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
        let made = event.mask.contains(AddWatchFlags::IN_CREATE);
        let named = event.name.as_ref().is_some_and(|name| self.names.contains(name));
        lost || named && (!made || self.path.is_symlink())
    }
}
