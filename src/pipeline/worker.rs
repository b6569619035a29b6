//! Workers: a thread for each ring that takes its records in batches and hands them on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::bpf::{Clock, Record, Ring, RingReader, Wakeup};
use crate::threads::{Thread, Threads};

/// What a worker does with its records.
pub trait Consumer: Send + 'static {
    /// Takes the next records, in the order in which the ring had them.
    fn records(&mut self, records: &[Record]);
    /// Counts pieces in the ring that were no records.
    fn undecodable(&mut self, count: u64);
    /// Called about every [`TICK`], and after each batch.
    fn tick(&mut self, now_ns: u64);
}

/// A worker sleeps at most this long, and so long wait records that are too few to wake it.
pub const TICK: Duration = Duration::from_millis(200);

/// The same while the agent stops.
const HURRIED: Duration = Duration::from_millis(1);

/// Most records handed on at once: bounds how long a shard's lock is held.
const BATCH: usize = 256;

/// A running worker. It ends with the value, once the ring is empty.
pub struct Worker {
    thread: Option<Thread<()>>,
    wakeup: Arc<Wakeup>,
    hurry: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the worker of `ring`.
    pub fn start(
        number: usize,
        ring: Ring,
        clock: Arc<Clock>,
        sink: impl Consumer,
        threads: &Threads,
    ) -> Result<Worker> {
        let wakeup = Arc::new(Wakeup::new()?);
        let hurry = Arc::new(AtomicBool::new(false));
        let (raised, hurried) = (Arc::clone(&wakeup), Arc::clone(&hurry));
        let name = format!("nm-worker-{number}");
        let thread = threads.start(&name, move |_| run(&ring, clock, sink, &raised, &hurried))?;
        Ok(Worker { thread: Some(thread), wakeup, hurry })
    }

    /// From now on it polls its ring. Else a ring with fewer records than wake it would be emptied only once a [`TICK`], while whoever
    /// writes to it waits for room.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Lets it empty its ring, and ends it. To be called when nothing writes to the ring any more.
    pub fn finish(mut self) -> Result<()> {
        self.wakeup.raise();
        self.thread.take().map_or(Ok(()), Thread::stop)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.wakeup.raise();
    }
}

fn run(ring: &Ring, clock: Arc<Clock>, mut sink: impl Consumer, wakeup: &Wakeup, hurry: &AtomicBool) -> Result<()> {
    let mut reader = ring.reader(clock)?;
    let mut records = Vec::with_capacity(BATCH);
    loop {
        let nap = if hurry.load(Ordering::Relaxed) { HURRIED } else { TICK };
        let finish = reader.wait(nap, wakeup)?;
        drain(&mut reader, &mut records, &mut sink, Clock::now_ns);
        if finish {
            return Ok(());
        }
    }
}

/// Hands on all that waits in a ring, with the time that `now_ns` returns. Returns the number of records. `records` is a buffer.
pub fn drain(
    reader: &mut RingReader,
    records: &mut Vec<Record>,
    sink: &mut impl Consumer,
    now_ns: impl Fn() -> u64,
) -> u64 {
    let mut count = 0;
    loop {
        let undecodable = reader.read(BATCH, records);
        if undecodable > 0 {
            sink.undecodable(undecodable);
        }
        sink.records(records);
        sink.tick(now_ns());
        if records.is_empty() && undecodable == 0 {
            return count;
        }
        count += records.len() as u64;
    }
}
