//! Asks who the ends of flows are, again and again while that is not known.

use std::sync::Arc;

use super::events::Marked;
use super::table::{Entry, Table};
use super::{FlowEvent, Observer, Parties};

/// What became of the question who the ends of a flow are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Something has changed since it was asked, if it was.
    #[default]
    Unasked,
    /// An end may get a name soon; what was counted waits for it.
    Awaited,
    /// An end may still get a name; what is counted does not wait any more.
    Overdue,
    /// There is nothing more to learn.
    Settled,
}

/// An answer to that question.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// In the order of the flow's key.
    pub parties: Option<Arc<Parties>>,
    /// An end without a name may get one.
    pub awaited: bool,
    /// It is worth waiting for.
    pub hold: bool,
}

/// What was counted waits so long for the name of an end. A pod's address is known to the API server some seconds after the pod has
/// it.
pub(super) const HOLD_NS: u64 = 30_000_000_000;
/// Flows of a table whose ends may get names.
const UNNAMED_MOST: usize = 1 << 16;

impl<M: Default> Table<M> {
    /// Asks who the ends of the flow are, if that was not asked since something changed.
    pub(super) fn name(&mut self, index: u32, observer: &mut impl Observer<Mark = M>) {
        let unasked = |marked: &&mut Marked<M>| marked.flow.naming == Naming::Unasked;
        let Some(marked) = self.flows.get_mut(index).filter(unasked) else { return };
        let named = observer.identify(&marked.flow);
        marked.flow.naming = if !named.awaited {
            Naming::Settled
        } else if self.unnamed.len() < UNNAMED_MOST {
            self.unnamed.push(Entry { index, generation: marked.flow.generation });
            if named.hold { Naming::Awaited } else { Naming::Overdue }
        } else {
            give_up(marked, observer);
            Naming::Settled
        };
        marked.flow.parties = named.parties;
        marked.emit(FlowEvent::Reclassified, observer);
    }

    /// Asks again about all flows with an end that may get a name; without `news`, only about those that have waited long
    /// enough.
    pub fn name_again(&mut self, news: bool, now_ns: u64, observer: &mut impl Observer<Mark = M>) {
        let Table { unnamed, flows, .. } = self;
        unnamed.retain(|entry| {
            let Some(marked) = flows.get_mut(entry.index).filter(|m| m.flow.generation == entry.generation) else {
                return false;
            };
            let overdue = match marked.flow.naming {
                Naming::Awaited => now_ns.saturating_sub(marked.flow.first_ns) > HOLD_NS,
                Naming::Overdue => false,
                // It was asked for another reason meanwhile.
                Naming::Unasked | Naming::Settled => return false,
            };
            if !news && !overdue {
                return true;
            }
            let named = observer.identify(&marked.flow);
            let changed = named.parties != marked.flow.parties;
            marked.flow.parties = named.parties;
            if !named.awaited {
                marked.flow.naming = Naming::Settled;
            } else if overdue {
                marked.flow.naming = Naming::Overdue;
                give_up(marked, observer);
            }
            // What waits goes to where it belongs, if nothing else is awaited; where nothing waits any more, what follows does.
            if !named.awaited || overdue || (changed && marked.flow.naming == Naming::Overdue) {
                marked.emit(FlowEvent::Reclassified, observer);
            }
            named.awaited
        });
    }

    /// Flows whose ends may get names.
    pub fn unnamed(&self) -> usize {
        self.unnamed.len()
    }
}

/// An end of the flow stays without a name.
pub(super) fn give_up<M>(marked: &mut Marked<M>, observer: &mut impl Observer<Mark = M>) {
    observer.give_up(&marked.flow);
    marked.emit(FlowEvent::Unnamed, observer);
}
