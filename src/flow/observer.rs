//! Who wants to know what happens to flows.

use super::{ErrorKind, Flow, Named, Outcome};
use crate::bpf::{Record, Sample};

/// Learns what happens to flows, as it happens.
pub trait Observer {
    /// Who the ends of the flow are.
    fn named(&mut self, _flow: &Flow) -> Named {
        Named::default()
    }
    /// An end of the flow got no name in time, or too many wait for theirs.
    fn nameless(&mut self, _flow: &Flow) {}
    /// Too many flows are new: what is counted of this one does not wait until it is settled what it is.
    fn hurried(&mut self) {}
    /// The end `sender` of the flow sends for the first time, or is to be counted as something else than by the tag that it
    /// has; the tag that this direction is to carry.
    fn appeared(&mut self, flow: &Flow, sender: usize) -> u32;
    /// The first packet of the flow is accounted.
    fn started(&mut self, _flow: &Flow) {}
    /// The end `sender` of the flow sent more, as its owner saw it.
    fn sent(&mut self, flow: &Flow, sender: usize, record: &Record);
    /// Another hook saw packets that are accounted already.
    fn duplicate(&mut self, record: &Record);
    /// A time was measured where the sender's packets are accounted.
    fn measured(&mut self, _flow: &Flow, _sender: usize, _sample: Sample) {}
    /// An ICMP error came about a flow, the first of its kind.
    fn icmp_error(&mut self, _flow: &Flow, _kind: ErrorKind) {}
    /// An ICMP error came about a flow that is not known, while too many of these wait for theirs.
    fn icmp_error_lost(&mut self) {}
    /// The outcome became known.
    fn ended(&mut self, flow: &Flow, outcome: Outcome);
    /// The flow had to go before its time, for lack of room.
    fn evicted(&mut self, flow: &Flow);
    /// The flow leaves the table: no packet is added to it any more.
    fn removed(&mut self, _flow: &Flow) {}
}
