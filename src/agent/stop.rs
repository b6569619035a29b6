//! Stops the agent: detaches, brings everything that is still on its way into the books, and ends all threads. Every step is taken
//! whatever fails before it, and the first failure is the one that is returned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use super::board::Board;
use super::detecting::Detecting;
use super::names::NamesSource;
use super::report::Report;
use super::served::report;
use super::watch::interfaces::InterfaceWatch;
use crate::bpf::{Bpf, Ring, Sweep, Sweeper};
use crate::http::Running;
use crate::pipeline::Pipeline;
use crate::pipeline::worker::Worker;
use crate::threads::Thread;

/// What the caches hold is given up if none of it gets into a ring for this long.
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// The first failure: others often follow from it.
#[derive(Default)]
pub(super) struct Trouble(pub(super) Option<Error>);

impl Trouble {
    pub(super) fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(Some(error));
                None
            }
        }
    }

    pub(super) fn note(&mut self, error: Option<Error>) {
        match (&self.0, error) {
            (None, first) => self.0 = first,
            (Some(_), Some(later)) => log::error!("while the agent ends: {later:#}"),
            (Some(_), None) => {}
        }
    }
}

/// The threads that a stop ends. They end with the value too, but then in no order that keeps packets in the books.
pub(super) struct Stopping {
    pub(super) limits: Thread<()>,
    pub(super) translations: Option<Thread<()>>,
    pub(super) pods: Option<Thread<()>>,
    pub(super) interfaces: InterfaceWatch,
    pub(super) sweeps: Thread<Sweeper>,
    pub(super) workers: Vec<Worker>,
    pub(super) detecting: Arc<Detecting>,
    pub(super) names: NamesSource,
    pub(super) metrics: Option<Running>,
}

impl Stopping {
    pub(super) fn stop(
        self,
        bpf: &Bpf<'_>,
        ring: Option<&Ring>,
        pipeline: &Pipeline,
        board: &Board,
        trouble: &mut Trouble,
    ) -> Report {
        let started = Instant::now();
        let Stopping { limits, translations, pods, interfaces, sweeps, workers, detecting, names, metrics } = self;
        for thread in [Some(limits), translations, pods].into_iter().flatten() {
            trouble.take(thread.stop());
        }
        trouble.take(interfaces.stop());
        if let Some(ring) = ring {
            trouble.take(bpf.wait_for_programs(ring));
        }
        let sweeper = trouble.take(sweeps.stop()).or_else(|| trouble.take(bpf.sweeper()));
        // A sweep leaves entries where they are if a ring is full: it is repeated while the workers empty the rings.
        workers.iter().for_each(Worker::hurry);
        if let Some(sweeper) = sweeper {
            let (mut written, mut since) = (sweeper.records(), Instant::now());
            while !sweeper.is_empty() && since.elapsed() < DRAIN_TIME {
                if trouble.take(sweeper.sweep(Sweep::All)).is_none() {
                    break;
                }
                std::thread::yield_now();
                if sweeper.records() != written {
                    (written, since) = (sweeper.records(), Instant::now());
                }
            }
        }
        for worker in workers {
            trouble.take(worker.finish());
        }
        pipeline.end_flows();
        trouble.take(detecting.stop());
        let report = report(pipeline, board);
        trouble.take(names.stop());
        // Last, so that the final figures can still be scraped.
        if let Some(server) = metrics {
            trouble.take(server.stop());
        }
        log::info!("stopped after {:.1} s; {}", started.elapsed().as_secs_f64(), report.conservation());
        report
    }
}
