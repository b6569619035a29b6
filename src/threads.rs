//! The list of threads that last until they are stopped. One that ends earlier, by an error or a panic, is reported with the reason.

use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::lock;

/// All threads of an agent. Clones are the same list.
#[derive(Clone, Debug)]
pub struct Threads(Arc<List>);

#[derive(Debug)]
struct List {
    running: Mutex<Vec<String>>,
    /// Why the first of those ended that were not stopped: other deaths often follow from it.
    death: Mutex<Option<String>>,
    report: Sender<String>,
}

impl Threads {
    /// An empty list, and where the first death is reported.
    pub fn new() -> (Threads, Receiver<String>) {
        let (report, deaths) = bounded(1);
        (Threads(Arc::new(List { running: Mutex::default(), death: Mutex::default(), report })), deaths)
    }

    /// Starts a thread. `act` is to return without an error once the channel that it gets is closed, or its owner ends it in another
    /// way.
    ///
    /// # Errors
    ///
    /// The host gives no more threads.
    pub fn start<T: Send + 'static>(
        &self,
        name: &str,
        act: impl FnOnce(&Receiver<()>) -> Result<T> + Send + 'static,
    ) -> Result<Thread<T>> {
        let (stop, stopped) = bounded(0);
        lock::ignoring_poison(&self.0.running).push(name.to_owned());
        let listed = Listed { name: name.to_owned(), threads: self.clone() };
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let result = act(&stopped);
                if let Err(error) = &result {
                    log::error!("{error:#}");
                    listed.died(&format!("{error:#}"));
                }
                result
            })
            .with_context(|| format!("start the thread {name}"))?;
        Ok(Thread { name: name.to_owned(), stop: Some(stop), thread: Some(thread) })
    }

    /// Why the first thread died, if any did.
    pub fn death(&self) -> Option<String> {
        lock::ignoring_poison(&self.0.death).clone()
    }

    /// The threads that have not ended.
    pub fn running(&self) -> Vec<String> {
        lock::ignoring_poison(&self.0.running).clone()
    }
}

/// A thread's place in the list. The thread itself has it.
struct Listed {
    name: String,
    threads: Threads,
}

impl Listed {
    fn died(&self, reason: &str) {
        let mut death = lock::ignoring_poison(&self.threads.0.death);
        if death.is_none() {
            let text = format!("the thread {} has ended: {reason}", self.name);
            *death = Some(text.clone());
            // It has room for the first.
            let _ = self.threads.0.report.try_send(text);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.died("it panicked");
        }
        let mut running = lock::ignoring_poison(&self.threads.0.running);
        if let Some(place) = running.iter().position(|name| *name == self.name) {
            running.swap_remove(place);
        }
    }
}

/// A running thread. It is stopped and joined when the value is dropped.
#[derive(Debug)]
pub struct Thread<T> {
    name: String,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<T>>>,
}

impl<T> Thread<T> {
    /// Stops and joins it; its result.
    ///
    /// # Errors
    ///
    /// Those of the thread, or that it panicked.
    pub fn stop(mut self) -> Result<T> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => Err(anyhow!("the thread {} panicked", self.name)),
        }
    }
}

impl<T> Drop for Thread<T> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has said why, if it failed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn the_first_death_is_reported_with_its_reason() {
        let (threads, deaths) = Threads::new();
        let lives = threads.start("lives", |stopped| Ok(stopped.recv().is_ok())).unwrap();
        let fails = threads.start("fails", |_| -> Result<()> { Err(anyhow!("no room").context("look")) }).unwrap();
        assert_eq!(deaths.recv_timeout(PATIENCE).unwrap(), "the thread fails has ended: look: no room");
        assert_eq!(format!("{:#}", fails.stop().unwrap_err()), "look: no room");
        assert_eq!(threads.running(), ["lives"]);
        assert!(!lives.stop().unwrap(), "nothing is sent, the channel is closed");
        assert!(deaths.try_recv().is_err(), "a thread that is stopped has not died");
        assert_eq!(threads.death().unwrap(), "the thread fails has ended: look: no room");
        assert!(threads.running().is_empty());
    }

    #[test]
    fn a_panic_is_reported() {
        let (threads, deaths) = Threads::new();
        let panics = threads.start("panics", |_| -> Result<()> { panic!("for a test") }).unwrap();
        assert_eq!(deaths.recv_timeout(PATIENCE).unwrap(), "the thread panics has ended: it panicked");
        assert_eq!(panics.stop().unwrap_err().to_string(), "the thread panics panicked");
        assert!(threads.running().is_empty());
    }

    #[test]
    fn the_first_is_kept() {
        let (threads, deaths) = Threads::new();
        for reason in ["first", "second"] {
            let _ = threads.start("x", move |_| -> Result<()> { Err(anyhow!(reason)) }).unwrap().stop();
        }
        assert_eq!(deaths.try_iter().collect::<Vec<_>>(), ["the thread x has ended: first"]);
        assert_eq!(threads.death().unwrap(), "the thread x has ended: first");
    }

    #[test]
    fn it_ends_with_its_value() {
        let (threads, _deaths) = Threads::new();
        let (ended, end) = bounded(1);
        let thread = threads.start("x", move |stopped| {
            let _ = stopped.recv();
            ended.send(()).unwrap();
            Ok(())
        });
        drop(thread.unwrap());
        end.try_recv().unwrap();
    }
}
