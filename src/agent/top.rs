//! How fast flows are, for whoever looks.

use std::sync::PoisonError;

use super::api::Lines;
use super::shard::lock;
use super::shared::Shared;
use crate::bpf::Clock;
use crate::control::Busy;
use crate::flow::{Flow, Looked};

/// Gives every flow to `take`, with how fast it is; how many are fast, but not known to be how fast.
pub(super) fn busy(shared: &std::sync::Arc<Shared>, take: &mut dyn FnMut(Busy<'_>)) -> u64 {
    let mut lines = Lines::new(shared);
    // Two who look at once look one after the other.
    let mut rates = shared.rates.lock().unwrap_or_else(PoisonError::into_inner);
    rates.begin(Clock::now_ns());
    let mut page_of_flows: Vec<Flow> = Vec::new();
    for (number, shard) in shared.shards().iter().enumerate() {
        for page in 0.. {
            page_of_flows.clear();
            // A worker waits for a copy, not for what becomes of it.
            match lock(shard).table.page(page) {
                Some(flows) => page_of_flows.extend(flows.cloned()),
                None => break,
            }
            for flow in &page_of_flows {
                let rate = rates.of((number, flow.id()), Looked::from(flow));
                take(Busy { flow, rate, line: &mut |flow| lines.line(number, flow) });
            }
        }
    }
    rates.end()
}
