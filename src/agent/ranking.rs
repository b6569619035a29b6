//! Rates of flows, for clients that ask again and again.

use std::sync::{Arc, Mutex, TryLockError};

use super::lines::Lines;
use crate::bpf::Clock;
use crate::clients::{Budget, Share};
use crate::control::RatedFlow;
use crate::flow::{Flow, FlowTotals, Rates};
use crate::lock;
use crate::pipeline::Pipeline;

/// Keeps what rates are computed from, while clients ask for them.
pub(super) struct Ranking {
    pipeline: Arc<Pipeline>,
    budget: Arc<Budget>,
    history: Mutex<RateHistory>,
}

#[derive(Default)]
struct RateHistory {
    /// By shard and id.
    rates: Rates<(usize, u32)>,
    /// The memory counts as that of clients.
    share: Option<Share>,
}

impl RateHistory {
    fn rest(&mut self) {
        self.rates.rest(Clock::now_ns());
        if self.rates.rests() {
            self.share = None;
        }
    }
}

/// Most flows that are copied under one lock.
const COPIED: usize = 512;

impl Ranking {
    pub(super) fn new(pipeline: Arc<Pipeline>, budget: Arc<Budget>) -> Ranking {
        Ranking { pipeline, budget, history: Mutex::default() }
    }

    /// Frees everything if nobody has asked for a while. It does not wait for an answer in the making.
    pub(super) fn rest(&self) {
        match self.history.try_lock() {
            Ok(mut history) => history.rest(),
            Err(TryLockError::Poisoned(history)) => history.into_inner().rest(),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Gives every flow to `take`, with its rate. Returns the number of flows that are fast at a rate that is not known.
    pub(super) fn look(&self, mut lines: Lines, take: &mut dyn FnMut(RatedFlow<'_>)) -> u64 {
        // Two clients that ask at once are answered one after the other.
        let mut history = lock::ignoring_poison(&self.history);
        let RateHistory { rates, share } = &mut *history;
        if rates.rests() {
            *share = Some(self.budget.hold(rates.fit(self.budget.most() / 2)));
        }
        rates.begin(Clock::now_ns());
        let mut some: Vec<(u32, Flow)> = Vec::new();
        for number in 0..self.pipeline.workers() {
            let mut from = 0;
            loop {
                some.clear();
                // A worker waits until flows are copied, not until they are sent.
                self.pipeline.look(number, |table| {
                    some.extend(table.places(from).take(COPIED).map(|(index, flow)| (index, flow.clone())));
                });
                let Some((last, _)) = some.last() else { break };
                from = last + 1;
                for (_, flow) in &some {
                    let rate = rates.of((number, flow.id()), FlowTotals::from(flow));
                    take(RatedFlow { flow, rate, line: &mut |flow| lines.line(number, flow) });
                }
            }
        }
        rates.end()
    }
}
