//! CPU time of the BPF programs: those that run, and those that others have replaced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::bpf::{ProgramInfo, Programs, Sweeper};
use crate::lock;

/// Runs of a program and their time (`sysctl kernel.bpf_stats_enabled=1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) struct ProgramTime {
    /// The program's name.
    pub(super) name: String,
    /// Times it ran.
    pub(super) runs: u64,
    /// Time it took in all.
    pub(super) run_ns: u64,
}

/// Run-time statistics over all loads. A program is known by the kernel's id: one that is replaced and comes back has gone on counting.
pub(in crate::agent) struct ProgramTimes {
    sweeper: Sweeper,
    loads: Mutex<Loads>,
}

struct Loads {
    /// Those that may run, the latest last.
    running: Vec<Arc<Programs>>,
    ledger: Ledger,
}

/// What each program came to.
#[derive(Debug, Default)]
struct Ledger {
    /// Times of programs that may run, by id.
    running: BTreeMap<u32, ProgramTime>,
    /// Times of all others, by name.
    past: BTreeMap<String, ProgramTime>,
}

impl Ledger {
    /// Takes what the kernel reports of the programs that may run. All others do not run any more.
    fn take(&mut self, infos: &[ProgramInfo]) {
        let Ledger { running, past } = self;
        running.retain(|id, time| {
            let runs = infos.iter().any(|info| info.id == *id);
            if !runs {
                add(past, time);
            }
            runs
        });
        for ProgramInfo { name, id, runs, run_ns, .. } in infos {
            self.running.insert(*id, ProgramTime { name: name.clone(), runs: *runs, run_ns: *run_ns });
        }
    }

    /// By name, without programs that were never measured.
    fn sums(&self) -> Vec<ProgramTime> {
        let mut sums = self.past.clone();
        self.running.values().for_each(|time| add(&mut sums, time));
        sums.into_values().filter(|time| time.runs > 0).collect()
    }
}

fn add(sums: &mut BTreeMap<String, ProgramTime>, more: &ProgramTime) {
    let sum =
        sums.entry(more.name.clone()).or_insert_with(|| ProgramTime { name: more.name.clone(), runs: 0, run_ns: 0 });
    sum.runs += more.runs;
    sum.run_ns += more.run_ns;
}

impl ProgramTimes {
    /// The sweep program stays, whatever replaces the others.
    pub(super) fn of(sweeper: Sweeper, programs: Arc<Programs>) -> ProgramTimes {
        ProgramTimes { sweeper, loads: Mutex::new(Loads { running: vec![programs], ledger: Ledger::default() }) }
    }

    /// These are about to replace others, which may still run meanwhile.
    pub(super) fn begin(&self, programs: Arc<Programs>) {
        let running = &mut lock::ignoring_poison(&self.loads).running;
        running.retain(|other| !Arc::ptr_eq(other, &programs));
        running.push(programs);
    }

    /// The latest have replaced all others. Those that somebody still holds may come back.
    pub(super) fn placed(&self) {
        let mut loads = lock::ignoring_poison(&self.loads);
        // While those that leave can still be read.
        self.update(&mut loads);
        let latest = loads.running.len().saturating_sub(1);
        let mut number = 0..;
        loads.running.retain(|programs| number.next() == Some(latest) || Arc::strong_count(programs) > 1);
    }

    /// What the kernel reports of the sweep program and of the latest programs that see packets.
    pub(in crate::agent) fn infos(&self) -> Vec<ProgramInfo> {
        let latest =
            lock::ignoring_poison(&self.loads).running.last().map(|programs| programs.infos()).unwrap_or_default();
        latest.into_iter().chain(self.sweeper.info()).collect()
    }

    /// Run-time statistics by program, if the kernel records them.
    pub(in crate::agent) fn read(&self) -> Vec<ProgramTime> {
        let mut loads = lock::ignoring_poison(&self.loads);
        self.update(&mut loads);
        loads.ledger.sums()
    }

    /// CPU time of the programs that see packets, if the kernel records it.
    pub(in crate::agent) fn packet_time(&self) -> Duration {
        // The sweep runs in the agent's own time.
        let times = self.read().into_iter().filter(|program| program.name != "nm_sweep");
        Duration::from_nanos(times.map(|program| program.run_ns).sum())
    }

    fn update(&self, loads: &mut Loads) {
        let infos = loads.running.iter().flat_map(|programs| programs.infos()).chain(self.sweeper.info());
        let infos: Vec<ProgramInfo> = infos.collect();
        loads.ledger.take(&infos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, id: u32, runs: u64) -> ProgramInfo {
        let tag = String::new();
        ProgramInfo { name: name.to_owned(), id, tag, bytes: 0, compiled_bytes: 0, runs, run_ns: 10 * runs }
    }

    fn sums(ledger: &Ledger) -> Vec<(String, u64, u64)> {
        ledger.sums().into_iter().map(|time| (time.name, time.runs, time.run_ns)).collect()
    }

    #[test]
    fn a_program_that_comes_back_counts_once() {
        let mut ledger = Ledger::default();
        ledger.take(&[info("in", 1, 5), info("sweep", 9, 2)]);
        // Another one traces, and the first waits for its end.
        ledger.take(&[info("in", 1, 7), info("in", 2, 3), info("sweep", 9, 3)]);
        ledger.take(&[info("in", 1, 7), info("in", 2, 4), info("sweep", 9, 3)]);
        assert_eq!(sums(&ledger), [("in".to_owned(), 11, 110), ("sweep".to_owned(), 3, 30)]);
        // It is back, and counts on.
        ledger.take(&[info("in", 1, 8), info("sweep", 9, 4)]);
        assert_eq!(sums(&ledger)[0].1, 12);
        // Others for good.
        ledger.take(&[info("in", 1, 9), info("in", 3, 0), info("sweep", 9, 4)]);
        ledger.take(&[info("in", 3, 2), info("sweep", 9, 4)]);
        assert_eq!(sums(&ledger), [("in".to_owned(), 15, 150), ("sweep".to_owned(), 4, 40)]);
    }
}
