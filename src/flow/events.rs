//! What happens in a table of flows, who hears of it, and who is asked about it.

use super::{ErrorKind, Flow, Named, Outcome};
use crate::bpf::{Record, Sample};

/// Something that happened to a flow. Events of a flow come in the order in which they happen.
#[derive(Clone, Copy, Debug)]
pub enum FlowEvent<'a> {
    /// An end of the flow sends for the first time. What it sent is in the event [`FlowEvent::Sent`] that follows.
    Appeared {
        /// The end's place in the flow's key, 0 or 1, as in every event that has a sender.
        sender: usize,
    },
    /// What the flow's packets count as has changed: who its ends are, who opened it, what it speaks, or that all of this is settled now.
    Reclassified,
    /// An end sent more packets, as the owner of its direction saw them. They are part of the flow already.
    Sent {
        /// The end that sent them.
        sender: usize,
        /// What the owner saw since its last record.
        record: &'a Record,
    },
    /// The first packet of the flow was accounted.
    Started,
    /// A hook that does not own the direction saw packets that its owner accounts.
    Duplicate(&'a Record),
    /// A time was measured where the sender's packets are accounted.
    Measured {
        /// The end whose packet completed the measurement.
        sender: usize,
        /// The time, and what it is the time of.
        sample: Sample,
    },
    /// An ICMP error quoted the flow: the first of its kind.
    IcmpError(ErrorKind),
    /// Too many flows are young: this one does not wait until it is settled what it counts as.
    Hurried,
    /// An end of the flow got no name in time, or too many flows wait for names.
    Unnamed,
    /// The outcome became known.
    Ended(Outcome),
    /// The flow leaves before its time, for lack of room.
    Evicted,
    /// The flow leaves the table: no packet is added to it any more.
    Removed,
}

/// Hears what happens to the flows of one table, on the thread that owns the table.
pub trait Sink {
    /// What the sink remembers of each flow. It is kept beside the flow, and starts with its default value.
    type Mark: Default;

    /// Something happened to `flow`. Called for every record, so it must neither block nor allocate without need.
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut Self::Mark);
}

/// Wants to hear nothing, and knows nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Sink for Quiet {
    type Mark = ();

    fn handle(&mut self, _event: FlowEvent<'_>, _flow: &Flow, _mark: &mut ()) {}
}

impl Directory for Quiet {}

/// Knows who the ends of flows are.
pub trait Directory {
    /// Who the ends of the flow are, as far as that is known now.
    fn identify(&mut self, _flow: &Flow) -> Named {
        Named::default()
    }

    /// An end of the flow was waited for in vain: other flows need not wait for it.
    fn give_up(&mut self, _flow: &Flow) {}
}

/// Both for one table: who is asked, and who hears.
pub trait Observer: Directory + Sink {}

impl<T: Directory + Sink> Observer for T {}

/// A flow, and what sinks remember of it.
#[derive(Clone, Debug)]
pub(super) struct Marked<M> {
    pub(super) flow: Flow,
    pub(super) mark: M,
}

impl<M> Marked<M> {
    #[inline]
    pub(super) fn emit(&mut self, event: FlowEvent<'_>, sinks: &mut impl Sink<Mark = M>) {
        sinks.handle(event, &self.flow, &mut self.mark);
    }
}

/// A directory and sinks that belong to others, for as long as a table works with them.
#[derive(Debug)]
pub struct Observing<'a, D, S> {
    /// Is asked who the ends of flows are.
    pub directory: &'a mut D,
    /// Hear what happens.
    pub sinks: &'a mut S,
}

impl<D: Directory, S> Directory for Observing<'_, D, S> {
    fn identify(&mut self, flow: &Flow) -> Named {
        self.directory.identify(flow)
    }

    fn give_up(&mut self, flow: &Flow) {
        self.directory.give_up(flow);
    }
}

impl<D, S: Sink> Sink for Observing<'_, D, S> {
    type Mark = S::Mark;

    #[inline]
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut Self::Mark) {
        self.sinks.handle(event, flow, mark);
    }
}
