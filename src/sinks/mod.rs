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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use crate::bpf::{Endpoint, Record};
    use crate::flow::{Flow, FlowEvent, Limits, Observing, Quiet, Sink, Table};

    /// All that a sink needs: here, flows by protocol. In the agent it would be a field of [`super::Sinks`].
    #[derive(Default)]
    struct FlowsByProtocol(BTreeMap<u8, u64>);

    impl Sink for FlowsByProtocol {
        type Mark = ();

        fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, (): &mut ()) {
            if let FlowEvent::Started = event {
                *self.0.entry(flow.key.protocol).or_default() += 1;
            }
        }
    }

    #[test]
    fn a_new_sink_takes_ten_lines() {
        let day = Duration::from_secs(86_400);
        let limits = Limits { max_flows: 10, flow_timeout: day, connect_timeout: day, max_age: None };
        let (mut table, mut sink) = (Table::new(limits, 0), FlowsByProtocol::default());
        let mut around = Observing { directory: &mut Quiet, sinks: &mut sink };
        for (protocol, port) in [(6, 1), (17, 1), (6, 2), (6, 2)] {
            let destination = Endpoint { port, ..Endpoint::default() };
            table.merge(&Record { protocol, destination, ifindex: 1, packets: 1, ..Record::default() }, &mut around);
        }
        assert_eq!(sink.0, BTreeMap::from([(6, 2), (17, 1)]));
    }
}
