//! Events of a flow table, the sinks that receive them, and the directory that names the ends of flows.

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
    /// The labels that the flow's packets count under have changed, or are final: who its ends are, who opened it, what
    /// it speaks.
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
    /// A hook that does not own the direction saw packets that the owner accounts for.
    Duplicate(&'a Record),
    /// The owner of the sender's direction measured a time.
    Measured {
        /// The end whose packet completed the measurement.
        sender: usize,
        /// The time and what it measures.
        sample: Sample,
    },
    /// An ICMP error quoted the flow: the first of its kind.
    IcmpError(ErrorKind),
    /// Too many flows are new: this one is counted at once, before its labels are final.
    Hurried,
    /// An end of the flow got no name in time, or too many flows were waiting for names.
    Unnamed,
    /// The outcome became known.
    Ended(Outcome),
    /// The flow leaves the table early, to make room for others.
    Evicted,
    /// The flow leaves the table: no more packets are added to it.
    Removed,
}

/// Receives the events of one table, on the thread that owns the table.
pub trait Sink {
    /// The sink's own data for each flow. It is kept beside the flow, and starts with its default value.
    type Mark: Default;

    /// Handles an event of `flow`. It is called for every record, so it must not block, nor allocate without need.
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut Self::Mark);
}

/// A sink that ignores all events, and a directory that knows no names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Sink for Quiet {
    type Mark = ();

    fn handle(&mut self, _event: FlowEvent<'_>, _flow: &Flow, _mark: &mut ()) {}
}

impl Directory for Quiet {}

/// Identifies the ends of flows.
pub trait Directory {
    /// Returns who the ends of the flow are, as far as that is known now.
    fn identify(&mut self, _flow: &Flow) -> Named {
        Named::default()
    }

    /// An end of the flow got no name in time: other flows need not wait for it.
    fn give_up(&mut self, _flow: &Flow) {}
}

/// The directory and the sinks of one table.
pub trait Observer: Directory + Sink {}

impl<T: Directory + Sink> Observer for T {}

/// A flow and the sinks' data for it.
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

/// Borrows a directory and sinks for the time in which a table works with them.
#[derive(Debug)]
pub struct Observing<'a, D, S> {
    /// Identifies the ends of flows.
    pub directory: &'a mut D,
    /// Receive the events.
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
