//! Measures how busy the machine is, by how late a thread wakes up that only sleeps. Upper bounds on times allow for
//! that.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// A measurement in progress.
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

    /// Ends the measurement; returns the longest time that a sleep of 10 ms took.
    pub fn most(self) -> Duration {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}
