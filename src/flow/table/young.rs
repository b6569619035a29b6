//! New flows: who opened them, in which direction, and what they speak is decided by the first records of both
//! directions and all hooks, which arrive in any order.

use super::{Entry, SETTLE_NS, Table};
use crate::flow::events::Marked;
use crate::flow::{FlowEvent, Observer, Sink, YOUNG};

/// Maximum number of new flows in a table.
const YOUNG_MOST: usize = 1 << 16;

impl<M: Default> Table<M> {
    /// Marks a flow as new: its counts wait, if there is room.
    pub(super) fn begin(&mut self, index: u32, observer: &mut impl Observer<Mark = M>) {
        let Some(marked) = self.flows.get_mut(index) else { return };
        if self.young.len() >= YOUNG_MOST {
            marked.emit(FlowEvent::Hurried, observer);
            return;
        }
        let flow = &mut marked.flow;
        flow.mark(YOUNG, true);
        self.young.push_back((flow.first_ns.saturating_add(SETTLE_NS), Entry { index, generation: flow.generation }));
    }

    /// Settles flows that are not new any more: what is known about them now is final.
    pub(super) fn grow_up(&mut self, now_ns: u64, observer: &mut impl Observer<Mark = M>) {
        while let Some(&(_, entry)) = self.young.front().filter(|(due_ns, _)| *due_ns <= now_ns) {
            self.young.pop_front();
            if let Some(marked) = self.flows.get_mut(entry.index).filter(|m| m.flow.generation == entry.generation) {
                settle(marked, observer);
            }
        }
    }
}

fn settle<M>(marked: &mut Marked<M>, sinks: &mut impl Sink<Mark = M>) {
    marked.flow.mark(YOUNG, false);
    if !marked.flow.is_held() {
        marked.emit(FlowEvent::Reclassified, sinks);
    }
}
