//! A node with everything that detection needs of one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::samples::S;
use super::super::{Around, Detective, Kind, SpotterMarks};
use super::records::{NODE, Traffic, api_server, lost_pods, party};
use crate::config::Security;
use crate::flow::{Directory, Flow, FlowEvent, Named, Observing, Sink, Table, TableLimits};

/// Events by kind and source, or by victim if the sources are forged.
pub(super) type Told = BTreeMap<(Kind, Option<IpAddr>), u32>;

pub(super) struct Node {
    table: Table<SpotterMarks>,
    watched: Watched,
}

struct Watched {
    detective: Detective,
    flows: u64,
}

impl Sink for Watched {
    type Mark = SpotterMarks;

    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut SpotterMarks) {
        self.flows += u64::from(matches!(event, FlowEvent::Started));
        self.detective.handle(event, flow, mark);
    }
}

/// Names of the cluster's pods and services.
struct Cluster;

impl Directory for Cluster {
    fn identify(&mut self, flow: &Flow) -> Named {
        let end =
            |end: usize| party(flow.ip(end), (end != usize::from(flow.client & 1)).then(|| flow.endpoint(end).port));
        Named { parties: Some(Arc::new([end(0), end(1)])), ..Named::default() }
    }
}

impl Around for Cluster {
    fn is_own(&self, ip: IpAddr) -> bool {
        ip == NODE
    }

    fn node(&self) -> &str {
        "n1"
    }

    fn has_lost_its_pod(&self, ip: IpAddr, at_ns: u64) -> bool {
        lost_pods().any(|(pod, gone_ns)| pod == ip && (gone_ns..gone_ns + 120 * S).contains(&at_ns))
    }
}

impl Node {
    pub(super) fn new() -> Node {
        let limits = TableLimits {
            max_flows: 200_000,
            flow_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(30),
            max_age: None,
        };
        let security = Security { enabled: true, learning: Duration::from_secs(300), ..Security::default() };
        assert_ne!(api_server(), NODE);
        Node { table: Table::new(limits, 0), watched: Watched { detective: Detective::new(&security, 0), flows: 0 } }
    }

    /// Plays the traffic, and lets this many seconds pass from its beginning.
    pub(super) fn play(&mut self, traffic: &Traffic, seconds: u64) {
        let mut records = traffic.records().peekable();
        // As often as a worker wakes up.
        for tick in 1..=seconds * 5 {
            let now_ns = tick * S / 5;
            let Node { table, watched } = self;
            let mut observing = Observing { directory: &mut Cluster, sinks: watched };
            while let Some(record) = records.next_if(|record| record.last_ns <= now_ns) {
                table.merge(record, &mut observing);
            }
            table.expire(now_ns, &mut observing);
            watched.detective.tick(now_ns, &Cluster);
        }
        assert_eq!(self.watched.detective.lost(), 0);
    }

    /// What was found.
    pub(super) fn told(&self) -> Told {
        let mut told = Told::new();
        for finding in &self.watched.detective.found {
            *told.entry((finding.kind, finding.source.or(finding.target))).or_default() += 1;
        }
        told
    }

    /// Flows that it has seen.
    pub(super) fn flows(&self) -> u64 {
        self.watched.flows
    }
}
