//! Pairs with every time measured, as many as the default configuration has series for.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use netmon::bpf::{Cause, Endpoint, Facts, Hook, Measure, Record, Sample};
use netmon::config::Config;
use netmon::flow::{Table, TableLimits};
use netmon::sinks::metrics::{Aggregates, FigureList, Identification, Keys, MetricsPage, Reading, SeriesIndex, Source};

const MEASURES: [Measure; 5] =
    [Measure::Connect, Measure::HandshakeClient, Measure::HandshakeServer, Measure::Rtt, Measure::Response];

struct Pairs {
    sums: Aggregates,
    index: Arc<SeriesIndex>,
}

/// The metrics page over these pairs.
pub fn page(config: &Config) -> MetricsPage {
    let identification = Identification { labels: config.labels, ..Identification::default() };
    let index = Arc::new(SeriesIndex::new(config.series_limit, config.features.buckets.clone(), identification));
    let mut sums = Aggregates::new(Arc::clone(&index));
    let limits = TableLimits {
        max_flows: config.max_flows,
        flow_timeout: config.flow_timeout,
        connect_timeout: config.connect_timeout,
        max_age: None,
    };
    let mut table = Table::new(limits, 0);
    // More than there are series for.
    for client in 1..=config.series_limit as u32 / 32 {
        for measure in MEASURES {
            let sample = Sample { measure, ns: u64::from(client) << 16 };
            table.merge(&record(client, Facts::of_samples(&[sample])), &mut sums);
        }
    }
    // New flows are counted only after a few seconds.
    table.expire(Duration::from_secs(10).as_nanos() as u64, &mut sums);
    MetricsPage::new(Arc::new(Pairs { sums, index }), FigureList::default().with(|pairs: &Pairs| &*pairs.index))
}

fn record(client: u32, facts: Facts) -> Record {
    let endpoint = |address: u32, port| Endpoint::of(Ipv4Addr::from_bits(address).into(), port);
    Record {
        v6: false,
        source: endpoint(0x0a00_0000 | client, 40_000),
        destination: endpoint(0x0afe_0001, 80),
        protocol: 6,
        ifindex: 1,
        hook: Hook::Ingress,
        inner: false,
        vlan: 0,
        inner_vlan: 0,
        packets: 1,
        bytes: 60,
        first_ns: 1,
        last_ns: 1,
        tcp_flags: 0x10,
        syn: false,
        syn_ack: false,
        cause: Cause::Swept,
        facts: Some(facts),
        ..Record::default()
    }
}

impl Source for Pairs {
    fn read(&self) -> Option<Reading> {
        Some(Reading::new(self.sums.sums().clone(), Keys::default()))
    }

    fn unhealthy(&self) -> Option<String> {
        None
    }

    fn unready(&self) -> Option<String> {
        None
    }
}
