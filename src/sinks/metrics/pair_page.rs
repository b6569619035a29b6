//! The families of times, troubles and outcomes.

use prometheus::proto::{Bucket, Histogram as Proto};

use super::ends::{Identification, Role};
use super::figures::Families;
use super::pairs::{Histogram, Pairs};
use super::series::{COUNTERS, ExtraLabels, PairKey, TIMED};
use crate::bpf::App;
use crate::config::Buckets;
use crate::flow::{Reason, protocol_name};

/// Adds them.
pub(super) fn pairs(families: &mut Families, pairs: &Pairs, kept: &Identification) {
    for (name, histograms) in TIMED.into_iter().zip(&pairs.timed) {
        for (key, counted) in histograms {
            labelled(key, kept, |labels| {
                families.push(name, labels, |metric, _| metric.set_histogram(proto(&counted.count, &pairs.buckets)));
            });
        }
    }
    for (name, counters) in COUNTERS.into_iter().zip(&pairs.counters) {
        for (key, counted) in counters {
            labelled(key, kept, |labels| families.add(name, labels, counted.count as f64));
        }
    }
}

fn labelled(key: &PairKey, kept: &Identification, f: impl FnOnce(&[(&str, &str)])) {
    let mut pair: Vec<(&str, String)> = Vec::with_capacity(5);
    match &key.ends {
        Some((client, server)) => {
            client.each(Role::Client, kept, |name, value| pair.push((name, value)));
            server.each(Role::Server, kept, |name, value| pair.push((name, value)));
        }
        None => {
            let names = Role::Client.kept(kept).chain(Role::Server.kept(kept));
            pair.extend(names.map(|(_, name)| (name, "other".to_owned())));
        }
    }
    match key.extra {
        ExtraLabels::Nothing => {}
        ExtraLabels::Side(side) => pair.push(("side", side.to_owned())),
        ExtraLabels::App(app) => pair.push(("app_protocol", app.map_or("", App::name).to_owned())),
        ExtraLabels::Ended { protocol, direction, outcome } => {
            let reason = outcome.reason().map_or("", Reason::label);
            let protocol = protocol_name(protocol);
            let values = [&*protocol, direction.name(), outcome.status().name(), reason];
            let labels = ["protocol", "direction", "status", "reason"].into_iter().zip(values);
            pair.extend(labels.map(|(name, value)| (name, value.to_owned())));
        }
    }
    let pair: Vec<(&str, &str)> = pair.iter().map(|(name, value)| (*name, value.as_str())).collect();
    f(&pair);
}

/// Prometheus wants seconds. The encoder adds the bucket that holds all.
fn proto(histogram: &Histogram, buckets: &Buckets) -> Proto {
    let mut proto = Proto::default();
    let bucket = |(bound_ns, count): (u64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound_ns as f64 / 1e9);
        bucket.set_cumulative_count(count);
        bucket
    };
    proto.set_bucket(histogram.cumulative(buckets).map(bucket).collect());
    proto.set_sample_count(histogram.count());
    proto.set_sample_sum(histogram.sum_seconds());
    proto
}
