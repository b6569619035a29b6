//! How fast flows are, for clients that look again and again.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::lines::Lines;
use crate::bpf::Clock;
use crate::clients::{Budget, Share};
use crate::control::Busy;
use crate::flow::{Flow, FlowTotals, Rates};
use crate::pipeline::Pipeline;

/// What is remembered from one look to the next, while anybody looks.
pub(super) struct Ranking {
    pipeline: Arc<Pipeline>,
    budget: Arc<Budget>,
    looks: Mutex<Looks>,
}

#[derive(Default)]
struct Looks {
    /// By shard and id.
    rates: Rates<(usize, u32)>,
    /// It is for clients, and a part of what they may hold.
    share: Option<Share>,
}

impl Looks {
    fn rest(&mut self) {
        self.rates.rest(Clock::now_ns());
        if self.rates.rests() {
            self.share = None;
        }
    }
}

/// Flows that are copied under one lock.
const COPIED: usize = 512;

impl Ranking {
    pub(super) fn new(pipeline: Arc<Pipeline>, budget: Arc<Budget>) -> Ranking {
        Ranking { pipeline, budget, looks: Mutex::default() }
    }

    /// Lets go of everything if nobody has looked for a while. It waits for no look.
    pub(super) fn rest(&self) {
        match self.looks.try_lock() {
            Ok(mut looks) => looks.rest(),
            Err(TryLockError::Poisoned(looks)) => looks.into_inner().rest(),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Gives every flow to `take`, with its rate; how many are fast, but it is not known how fast.
    pub(super) fn look(&self, mut lines: Lines, take: &mut dyn FnMut(Busy<'_>)) -> u64 {
        // Two that look at once look one after the other.
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let Looks { rates, share } = &mut *looks;
        if rates.rests() {
            *share = Some(self.budget.hold(rates.fit(self.budget.most() / 2)));
        }
        rates.begin(Clock::now_ns());
        let mut some: Vec<(u32, Flow)> = Vec::new();
        for number in 0..self.pipeline.workers() {
            let mut from = 0;
            loop {
                some.clear();
                // A worker waits for a copy, not for what becomes of it.
                self.pipeline.look(number, |table| {
                    some.extend(table.places(from).take(COPIED).map(|(index, flow)| (index, flow.clone())));
                });
                let Some((last, _)) = some.last() else { break };
                from = last + 1;
                for (_, flow) in &some {
                    let rate = rates.of((number, flow.id()), FlowTotals::from(flow));
                    take(Busy { flow, rate, line: &mut |flow| lines.line(number, flow) });
                }
            }
        }
        rates.end()
    }
}
