//! Looks up the names of the ends of flows, and repeats that as long as they are not known.

use std::sync::Arc;

use super::events::Marked;
use super::table::{Entry, Table};
use super::{FlowEvent, Observer, Parties};

/// Progress of finding the names of a flow's ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameState {
    /// Not looked up yet, or not since something changed.
    #[default]
    Unasked,
    /// An end may get a name soon; counts wait for it.
    Awaited,
    /// An end may still get a name, but counts no longer wait for it.
    Overdue,
    /// The names are final.
    Settled,
}

/// What a directory knows about the ends of a flow.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// The ends, in the order of the flow's key.
    pub parties: Option<Arc<Parties>>,
    /// True if an end without a name may get one.
    pub awaited: bool,
    /// True if counts should wait for that name.
    pub hold: bool,
}

/// How long counts wait for the name of an end. The API server knows a pod's address some seconds after the pod has it.
pub(super) const HOLD_NS: u64 = 30_000_000_000;
/// Maximum number of flows of a table whose ends may get names.
const UNNAMED_MOST: usize = 1 << 16;

impl<M: Default> Table<M> {
    /// Looks up the ends of the flow, if that was not done since something changed.
    pub(super) fn name(&mut self, index: u32, observer: &mut impl Observer<Mark = M>) {
        let unasked = |marked: &&mut Marked<M>| marked.flow.naming == NameState::Unasked;
        let Some(marked) = self.flows.get_mut(index).filter(unasked) else { return };
        let named = observer.identify(&marked.flow);
        marked.flow.naming = if !named.awaited {
            NameState::Settled
        } else if self.unnamed.len() < UNNAMED_MOST {
            self.unnamed.push(Entry { index, generation: marked.flow.generation });
            if named.hold { NameState::Awaited } else { NameState::Overdue }
        } else {
            give_up(marked, observer);
            NameState::Settled
        };
        marked.flow.parties = named.parties;
        marked.emit(FlowEvent::Reclassified, observer);
    }

    /// Looks up again all flows with an end that may get a name; without `news`, only those that have waited long
    /// enough.
    pub fn name_again(&mut self, news: bool, now_ns: u64, observer: &mut impl Observer<Mark = M>) {
        let Table { unnamed, flows, .. } = self;
        unnamed.retain(|entry| {
            let Some(marked) = flows.get_mut(entry.index).filter(|m| m.flow.generation == entry.generation) else {
                return false;
            };
            let overdue = match marked.flow.naming {
                NameState::Awaited => now_ns.saturating_sub(marked.flow.first_ns) > HOLD_NS,
                NameState::Overdue => false,
                // Something else caused a lookup in the meantime.
                NameState::Unasked | NameState::Settled => return false,
            };
            if !news && !overdue {
                return true;
            }
            let named = observer.identify(&marked.flow);
            let changed = named.parties != marked.flow.parties;
            marked.flow.parties = named.parties;
            if !named.awaited {
                marked.flow.naming = NameState::Settled;
            } else if overdue {
                marked.flow.naming = NameState::Overdue;
                give_up(marked, observer);
            }
            // Waiting counts go to their series once no name is awaited. If none wait, only later counts move.
            if !named.awaited || overdue || (changed && marked.flow.naming == NameState::Overdue) {
                marked.emit(FlowEvent::Reclassified, observer);
            }
            named.awaited
        });
    }

    /// Number of flows whose ends may get names.
    pub fn unnamed(&self) -> usize {
        self.unnamed.len()
    }
}

/// Stops waiting for the name of an end of the flow.
pub(super) fn give_up<M>(marked: &mut Marked<M>, observer: &mut impl Observer<Mark = M>) {
    observer.give_up(&marked.flow);
    marked.emit(FlowEvent::Unnamed, observer);
}
