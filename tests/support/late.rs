//! How busy the machine is: a thread that only sleeps, and how late it wakes up. Upper bounds on times allow for that.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// A measurement under way.
pub struct Lateness {
    stop: Sender<()>,
    thread: JoinHandle<Duration>,
}

impl Lateness {
    pub fn start() -> Lateness {
        let (stop, stopped) = bounded::<()>(0);
        let thread = std::thread::spawn(move || {
            let mut most = Duration::ZERO;
            loop {
                let begun = Instant::now();
                let stopped = stopped.recv_timeout(Duration::from_millis(10)) != Err(RecvTimeoutError::Timeout);
                most = most.max(begun.elapsed());
                if stopped {
                    return most;
                }
            }
        });
        Lateness { stop, thread }
    }

    /// Ends it; the longest that a sleep of 10 ms took.
    pub fn most(self) -> Duration {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}
