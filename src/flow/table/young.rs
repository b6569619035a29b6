//! Flows that are new: who opened them, which way, and what they speak is told by the first records of both directions and of all
//! hooks, which come in any order.

use super::{Entry, SETTLE_NS, Table, retag};
use crate::flow::{Flow, Observer, YOUNG};

/// Of a table at a time.
const YOUNG_MOST: usize = 1 << 16;

impl Table {
    /// A new flow: what is counted of it waits, if there is room.
    pub(super) fn begin(&mut self, index: u32, observer: &mut impl Observer) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        if self.young.len() >= YOUNG_MOST {
            observer.hurried();
            return;
        }
        flow.mark(YOUNG, true);
        self.young.push_back((flow.first_ns.saturating_add(SETTLE_NS), Entry { index, generation: flow.generation }));
    }

    /// Whatever is known now of flows that are not new any more holds.
    pub(super) fn grow_up(&mut self, now_ns: u64, observer: &mut impl Observer) {
        while let Some(&(_, entry)) = self.young.front().filter(|(due_ns, _)| *due_ns <= now_ns) {
            self.young.pop_front();
            if let Some(flow) = self.flows.get_mut(entry.index).filter(|flow| flow.generation == entry.generation) {
                settle(flow, observer);
            }
        }
    }
}

fn settle(flow: &mut Flow, observer: &mut impl Observer) {
    flow.mark(YOUNG, false);
    if !flow.is_held() {
        retag(flow, observer);
    }
}
