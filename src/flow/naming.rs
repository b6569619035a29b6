//! Asks who the ends of flows are, again and again while that is not known.

use std::sync::Arc;

use super::table::{Entry, Table, retag};
use super::{Observer, Parties};

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

impl Table {
    /// Asks who the ends of the flow are, if that was not asked since something changed.
    pub(super) fn name(&mut self, index: u32, observer: &mut impl Observer) {
        let Some(flow) = self.flows.get_mut(index).filter(|flow| flow.naming == Naming::Unasked) else { return };
        let named = observer.named(flow);
        flow.naming = if !named.awaited {
            Naming::Settled
        } else if self.unnamed.len() < UNNAMED_MOST {
            self.unnamed.push(Entry { index, generation: flow.generation });
            if named.hold { Naming::Awaited } else { Naming::Overdue }
        } else {
            observer.nameless(flow);
            Naming::Settled
        };
        flow.parties = named.parties;
        retag(flow, observer);
    }

    /// Asks again about all flows with an end that may get a name; without `news`, only about those that have waited long
    /// enough.
    pub fn name_again(&mut self, news: bool, now_ns: u64, observer: &mut impl Observer) {
        let Table { unnamed, flows, .. } = self;
        unnamed.retain(|entry| {
            let Some(flow) = flows.get_mut(entry.index).filter(|f| f.generation == entry.generation) else {
                return false;
            };
            let overdue = match flow.naming {
                Naming::Awaited => now_ns.saturating_sub(flow.first_ns) > HOLD_NS,
                Naming::Overdue => false,
                // It was asked for another reason meanwhile.
                Naming::Unasked | Naming::Settled => return false,
            };
            if !news && !overdue {
                return true;
            }
            let named = observer.named(flow);
            let changed = named.parties != flow.parties;
            flow.parties = named.parties;
            if !named.awaited {
                flow.naming = Naming::Settled;
            } else if overdue {
                flow.naming = Naming::Overdue;
                observer.nameless(flow);
            }
            // What waits goes to where it belongs, if nothing else is awaited; where nothing waits any more, what follows does.
            if !named.awaited || overdue || (changed && flow.naming == Naming::Overdue) {
                retag(flow, observer);
            }
            named.awaited
        });
    }

    /// The observer has let go of all its tags, but for those of flows that are held.
    pub fn recount(&mut self, observer: &mut impl Observer) {
        for flow in self.flows.iter_mut().filter(|flow| !flow.is_held()) {
            flow.tags = [0; 2];
            retag(flow, observer);
        }
    }

    /// Flows whose ends may get names.
    pub fn unnamed(&self) -> usize {
        self.unnamed.len()
    }
}
