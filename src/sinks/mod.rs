//! Who hears what happens to the flows of a shard. This is the list: a new sink is a file here, a field of [`Sinks`] and of [`Marks`],
//! and a line of `handle`.

mod feed;

pub use feed::{Feed, Happened, Reporter, WATCH_BYTES, Watched};

use crate::flow::{Flow, FlowEvent, Sink};
use crate::metrics::{Aggregates, Mark};

/// The sinks of one shard. A list that the compiler knows, so that an event costs no indirect call.
#[derive(Debug)]
pub struct Sinks {
    /// Adds up what Prometheus reads.
    pub metrics: Aggregates,
    /// Reports to `netmon-cli flows watch`.
    pub reporter: Reporter,
}

/// What they remember of each flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// Where it is counted.
    pub metrics: Mark,
    reporter: (),
}

impl Sink for Sinks {
    type Mark = Marks;

    #[inline]
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut Marks) {
        self.metrics.handle(event, flow, &mut mark.metrics);
        self.reporter.handle(event, flow, &mut mark.reporter);
    }
}
