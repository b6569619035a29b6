//! How fast flows are, for whoever looks.

use std::sync::PoisonError;

use super::api::Lines;
use super::shard::lock;
use super::shared::Shared;
use crate::bpf::Clock;
use crate::clients::Share;
use crate::control::Busy;
use crate::flow::{Flow, Looked, Rates};

/// What is remembered from one look to the next; only while somebody looks.
#[derive(Default)]
pub(super) struct Looks {
    /// By shard and id.
    rates: Rates<(usize, u32)>,
    /// It is for clients, and a part of what they may hold.
    share: Option<Share>,
}

impl Looks {
    /// Lets go of everything if nobody has looked for a while.
    pub(super) fn rest(&mut self, now_ns: u64) {
        self.rates.rest(now_ns);
        if self.rates.rests() {
            self.share = None;
        }
    }
}

/// Flows that are copied under one lock.
const COPIED: usize = 512;

/// Gives every flow to `take`, with how fast it is; how many are fast, but not known to be how fast.
pub(super) fn busy(shared: &std::sync::Arc<Shared>, take: &mut dyn FnMut(Busy<'_>)) -> u64 {
    let mut lines = Lines::new(shared);
    // Two who look at once look one after the other.
    let mut looks = shared.looks.lock().unwrap_or_else(PoisonError::into_inner);
    let Looks { rates, share } = &mut *looks;
    if rates.rests() {
        let budget = &shared.clients.budget;
        *share = Some(budget.hold(rates.fit(budget.most() / 2)));
    }
    rates.begin(Clock::now_ns());
    let mut some: Vec<(u32, Flow)> = Vec::new();
    for (number, shard) in shared.shards().iter().enumerate() {
        let mut from = 0;
        loop {
            some.clear();
            // A worker waits for a copy, not for what becomes of it.
            some.extend(lock(shard).table.places(from).take(COPIED).map(|(index, flow)| (index, flow.clone())));
            let Some((last, _)) = some.last() else { break };
            from = last + 1;
            for (_, flow) in &some {
                let rate = rates.of((number, flow.id()), Looked::from(flow));
                take(Busy { flow, rate, line: &mut |flow| lines.line(number, flow) });
            }
        }
    }
    rates.end()
}
