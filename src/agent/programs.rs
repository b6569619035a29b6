//! What the programs took in all, also those that others have replaced.

use crate::bpf::{ProgramInfo, ProgramStats, ProgramStatsReader};

/// Run-time statistics over all loads.
#[derive(Debug)]
pub(super) struct ProgramTimes {
    reader: ProgramStatsReader,
    /// Of programs that do not run any more.
    past: Vec<ProgramStats>,
}

impl ProgramTimes {
    pub(super) fn of(reader: ProgramStatsReader) -> ProgramTimes {
        ProgramTimes { reader, past: Vec::new() }
    }

    /// Others run from now on.
    pub(super) fn replace(&mut self, reader: ProgramStatsReader) {
        self.past = self.read();
        self.reader = reader;
    }

    /// What the kernel says of those that run.
    pub(super) fn infos(&self) -> Vec<ProgramInfo> {
        self.reader.infos()
    }

    pub(super) fn read(&self) -> Vec<ProgramStats> {
        let mut all = self.past.clone();
        for now in self.reader.read() {
            match all.iter_mut().find(|past| past.name == now.name) {
                Some(past) => {
                    past.runs += now.runs;
                    past.run_ns += now.run_ns;
                }
                None => all.push(now),
            }
        }
        all
    }
}
