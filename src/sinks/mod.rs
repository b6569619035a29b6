//! The sinks: what happens to the flows of a shard is reported to them. This is the list: a new sink is a file here, a field of [`Sinks`]
//! and of [`Marks`], and a line of `handle`. One with figures on the page of metrics also has a field of [`Shared`], and a line of
//! [`figures`].

pub mod detect;
mod feed;
pub mod metrics;

use std::sync::Arc;

pub use feed::{Feed, Happened, Reporter, WATCH_BYTES, Watched};

use crate::flow::{Flow, FlowEvent, Sink};
use detect::{Detection, Spotter, SpotterMarks};
use metrics::{Aggregates, FigureList, Mark, SeriesIndex};

/// The sinks of one shard. A list that the compiler knows, so that an event costs no indirect call.
#[derive(Debug)]
pub struct Sinks {
    /// Adds up what Prometheus reads.
    pub metrics: Aggregates,
    /// Reports to `netmon-cli flows watch`.
    pub reporter: Reporter,
    /// Spots what looks hostile.
    pub spotter: Spotter,
}

/// What the sinks remember of each flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// Where it is counted, and in its spare bits what was spotted already.
    pub metrics: Mark,
    /// Watchers get each event by itself: nothing is remembered.
    pub reporter: (),
}

impl Sink for Sinks {
    type Mark = Marks;

    #[inline]
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut Marks) {
        self.metrics.handle(event, flow, &mut mark.metrics);
        self.reporter.handle(event, flow, &mut mark.reporter);
        if self.spotter.is_on() {
            let mut spotted = SpotterMarks::of(mark.metrics.spare());
            self.spotter.handle(event, flow, &mut spotted);
            mark.metrics.set_spare(spotted.bits());
        }
    }
}

/// What the sinks of all shards have in common.
#[derive(Debug)]
pub struct Shared {
    /// Which series there are, and what they take of their budget.
    pub series: Arc<SeriesIndex>,
    /// Where watchers are.
    pub feed: Arc<Feed>,
    /// Judges what looks hostile.
    pub detection: Arc<Detection>,
}

impl Shared {
    /// Nobody watches yet.
    pub fn new(series: Arc<SeriesIndex>, detection: Detection) -> Shared {
        Shared { series, feed: Arc::default(), detection: Arc::new(detection) }
    }

    /// The sinks of the shard with this number.
    pub fn of_shard(&self, number: usize) -> Sinks {
        Sinks {
            metrics: Aggregates::new(Arc::clone(&self.series)),
            reporter: Reporter::new(Arc::clone(&self.feed), number),
            spotter: Spotter::new(Arc::clone(&self.detection)),
        }
    }
}

/// Sinks whose figures are on the page of metrics.
pub fn figures() -> FigureList<Shared> {
    FigureList::default().with(|shared: &Shared| &*shared.series).with(|shared: &Shared| &*shared.detection)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    use crate::bpf::{Endpoint, Record};
    use crate::flow::{Flow, FlowEvent, Observing, Quiet, Sink, Table, TableLimits, protocol_name};
    use crate::sinks::metrics::{Families, Family, FigureList, Figures, Keys, MetricsPage, Reading, Source, Sums};

    /// All that a sink needs: here, flows by protocol. In the agent it would be a field of [`super::Sinks`].
    #[derive(Clone)]
    struct FlowsByProtocol(Arc<[AtomicU64; 256]>);

    impl Sink for FlowsByProtocol {
        type Mark = ();

        fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, (): &mut ()) {
            if let FlowEvent::Started = event {
                self.0[usize::from(flow.protocol)].fetch_add(1, Relaxed);
            }
        }
    }

    /// All that it needs for a figure on the page. In the agent a clone of it would be a field of [`super::Shared`].
    impl Figures for FlowsByProtocol {
        const FAMILIES: &'static [Family] =
            &[Family::counter("netmon_flows_started_total", "Flows that have started.")];

        fn collect(&self, _: &Reading, families: &mut Families) {
            for (protocol, count) in (0..=u8::MAX).zip(&*self.0).filter(|(_, count)| count.load(Relaxed) > 0) {
                let labels = [("protocol", &*protocol_name(protocol))];
                families.add("netmon_flows_started_total", &labels, count.load(Relaxed) as f64);
            }
        }
    }

    struct Agent(FlowsByProtocol);

    impl Source for Agent {
        fn read(&self) -> Option<Reading> {
            Some(Reading::new(Sums::new(Arc::default()), Keys::default()))
        }

        fn unhealthy(&self) -> Option<String> {
            None
        }

        fn unready(&self) -> Option<String> {
            None
        }
    }

    /// The sink after some flows.
    fn after_flows() -> FlowsByProtocol {
        let day = Duration::from_secs(86_400);
        let limits = TableLimits { max_flows: 10, flow_timeout: day, connect_timeout: day, max_age: None };
        let mut sink = FlowsByProtocol(Arc::new([const { AtomicU64::new(0) }; 256]));
        let mut table = Table::new(limits, 0);
        let mut around = Observing { directory: &mut Quiet, sinks: &mut sink };
        for (protocol, port) in [(6, 1), (17, 1), (6, 2), (6, 2)] {
            let destination = Endpoint { port, ..Endpoint::default() };
            table.merge(&Record { protocol, destination, ifindex: 1, packets: 1, ..Record::default() }, &mut around);
        }
        sink
    }

    #[test]
    fn marks_take_no_more_than_they_have_to() {
        assert_eq!(size_of::<super::Marks>(), 8, "with another byte, a million flows take eight million bytes more");
    }

    #[test]
    fn a_new_sink_takes_ten_lines() {
        let sink = after_flows();
        assert_eq!([6, 17, 1].map(|protocol: usize| sink.0[protocol].load(Relaxed)), [2, 1, 0]);
    }

    #[test]
    fn its_figures_take_ten_more() {
        // In the agent, a line of `super::figures`.
        let list = || FigureList::default().with(|agent: &Agent| &agent.0);
        assert_eq!(list().metric_names().collect::<Vec<_>>(), ["netmon_flows_started_total"]);
        let page = MetricsPage::new(Arc::new(Agent(after_flows())), list()).make();
        let wanted = "# HELP netmon_flows_started_total Flows that have started.\n\
                      # TYPE netmon_flows_started_total counter\n\
                      netmon_flows_started_total{protocol=\"tcp\"} 2\n\
                      netmon_flows_started_total{protocol=\"udp\"} 1\n";
        assert_eq!(String::from_utf8(page).unwrap(), wanted);
    }
}
