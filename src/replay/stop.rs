//! Interrupts a replay, even while it waits for input.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::{flag, low_level::pipe};

/// Whether a replay has to end.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    /// Becomes readable when a signal arrives.
    asking: Arc<UnixStream>,
}

impl Stop {
    /// Stops at any of these signals. A second one ends the program.
    ///
    /// # Errors
    ///
    /// The signals cannot be handled.
    pub fn at(signals: &[i32]) -> Result<Stop> {
        let asked = Arc::new(AtomicBool::new(false));
        let (asking, asks) = UnixStream::pair().context("make a pair of sockets")?;
        for &signal in signals {
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&asked)).context("handle signals")?;
            flag::register(signal, Arc::clone(&asked)).context("handle signals")?;
            pipe::register(signal, asks.try_clone().context("handle signals")?).context("handle signals")?;
        }
        Ok(Stop { asked, asking: Arc::new(asking) })
    }

    /// True after a signal.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// An input whose reads fail once the replay has to end.
pub(super) struct Stoppable<R> {
    pub(super) input: R,
    pub(super) stop: Stop,
}

impl<R: Read + AsFd> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let [input, asking] = [self.input.as_fd(), self.stop.asking.as_fd()];
            let mut fds = [input, asking].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
                Ok(_) if fds[1].any().unwrap_or(true) => return Err(io::Error::other("interrupted")),
                Ok(_) => {}
            }
            match self.input.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}
