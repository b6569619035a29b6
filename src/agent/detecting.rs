//! The thread that judges what looks hostile: it runs as long as the configuration asks for it.

use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::config::Security;
use crate::lock;
use crate::pipeline::Pipeline;
use crate::threads::{Thread, Threads};

/// Starts and stops the thread.
pub(super) struct Detecting {
    pipeline: Arc<Pipeline>,
    threads: Threads,
    thread: Mutex<Option<Thread<()>>>,
}

impl Detecting {
    /// It does not run yet.
    pub(super) fn new(pipeline: Arc<Pipeline>, threads: &Threads) -> Detecting {
        Detecting { pipeline, threads: threads.clone(), thread: Mutex::default() }
    }

    /// Judges as the configuration says from now on.
    ///
    /// # Errors
    ///
    /// The host gives no more threads, or the thread has failed.
    pub(super) fn follow(&self, security: &Security) -> Result<()> {
        let detection = self.pipeline.detection();
        detection.set(security);
        let mut thread = lock::ignoring_poison(&self.thread);
        match thread.take() {
            running if security.enabled == running.is_some() => *thread = running,
            Some(running) => running.stop()?,
            None => {
                let (detection, names) = (Arc::clone(detection), self.pipeline.names().cloned());
                let run = self.threads.start("nm-detect", move |stopped| {
                    detection.run(names.as_ref(), stopped);
                    Ok(())
                });
                *thread = Some(run?);
            }
        }
        Ok(())
    }

    /// Ends the thread, if it runs.
    ///
    /// # Errors
    ///
    /// It has failed.
    pub(super) fn stop(&self) -> Result<()> {
        lock::ignoring_poison(&self.thread).take().map_or(Ok(()), Thread::stop)
    }
}
