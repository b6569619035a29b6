//! Threads that are to last until they are stopped. One that ends before, by an error or a panic, is told of with the reason.

use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};

/// Where the death of a thread is told. The first is kept: others often follow from it.
#[derive(Clone, Debug)]
pub struct Deaths(Sender<String>);

impl Deaths {
    /// With the end at which it is heard.
    pub fn new() -> (Deaths, Receiver<String>) {
        let (tell, told) = bounded(1);
        (Deaths(tell), told)
    }

    /// Starts a thread. It is to end without an error once the channel that it gets is closed, or whoever has the value tells it to in
    /// another way.
    pub fn watch<T: Send + 'static>(
        &self,
        name: &str,
        act: impl FnOnce(&Receiver<()>) -> Result<T> + Send + 'static,
    ) -> Result<Lasting<T>> {
        let (stop, stopped) = bounded(0);
        let alarm = Alarm { name: name.to_owned(), deaths: self.clone() };
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let result = act(&stopped);
                if let Err(error) = &result {
                    log::error!("{error:#}");
                    alarm.raise(&format!("{error:#}"));
                }
                result
            })
            .with_context(|| format!("start the thread {name}"))?;
        Ok(Lasting { name: name.to_owned(), stop: Some(stop), thread: Some(thread) })
    }
}

/// A thread's, on the thread itself.
struct Alarm {
    name: String,
    deaths: Deaths,
}

impl Alarm {
    fn raise(&self, reason: &str) {
        // Full: another was the first.
        let _ = self.deaths.0.try_send(format!("the thread {} has ended: {reason}", self.name));
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.raise("it panicked");
        }
    }
}

/// A running thread. It is stopped and waited for when the value goes.
#[derive(Debug)]
pub struct Lasting<T> {
    name: String,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<T>>>,
}

impl<T> Lasting<T> {
    /// Stops it; what it came to.
    pub fn stop(mut self) -> Result<T> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => Err(anyhow!("the thread {} panicked", self.name)),
        }
    }
}

impl<T> Drop for Lasting<T> {
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
    fn who_dies_first_is_told_with_the_reason() {
        let (deaths, told) = Deaths::new();
        let lives = deaths.watch("lives", |stopped| Ok(stopped.recv().is_ok())).unwrap();
        let fails = deaths.watch("fails", |_| -> Result<()> { Err(anyhow!("no room").context("look")) }).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "the thread fails has ended: look: no room");
        assert_eq!(format!("{:#}", fails.stop().unwrap_err()), "look: no room");
        assert!(!lives.stop().unwrap(), "nothing is sent, the channel is closed");
        assert!(told.try_recv().is_err(), "who is stopped has not died");
    }

    #[test]
    fn a_panic_is_told() {
        let (deaths, told) = Deaths::new();
        let panics = deaths.watch("panics", |_| -> Result<()> { panic!("for a test") }).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "the thread panics has ended: it panicked");
        assert_eq!(panics.stop().unwrap_err().to_string(), "the thread panics panicked");
    }

    #[test]
    fn the_first_is_kept() {
        let (deaths, told) = Deaths::new();
        for reason in ["first", "second"] {
            let _ = deaths.watch("x", move |_| -> Result<()> { Err(anyhow!(reason)) }).unwrap().stop();
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["the thread x has ended: first"]);
    }

    #[test]
    fn it_ends_with_its_value() {
        let (deaths, _told) = Deaths::new();
        let (ended, end) = bounded(1);
        let lasting = deaths.watch("x", move |stopped| {
            let _ = stopped.recv();
            ended.send(()).unwrap();
            Ok(())
        });
        drop(lasting.unwrap());
        end.try_recv().unwrap();
    }
}
