//! The families of times and troubles.

use prometheus::proto::{Bucket, Histogram as Proto};

use super::families::Families;
use super::pairs::{Histogram, Pairs};
use super::series::{More, PairKey, TIMED, TROUBLES};
use crate::bpf::App;
use crate::config::Buckets;

/// Adds them.
pub(super) fn pairs(families: &mut Families, pairs: &Pairs) {
    for (name, histograms) in TIMED.into_iter().zip(&pairs.timed) {
        for (key, histogram) in histograms {
            labelled(key, |labels| {
                families.push(name, labels, |metric, _| metric.set_histogram(proto(histogram, &pairs.buckets)));
            });
        }
    }
    for (name, counters) in TROUBLES.into_iter().zip(&pairs.troubles) {
        for (key, count) in counters {
            labelled(key, |labels| families.add(name, labels, *count as f64));
        }
    }
}

/// Without a cluster workloads go by their addresses, and there are no services.
fn labelled(key: &PairKey, f: impl FnOnce(&[(&str, &str)])) {
    let (client, server) = match key.ends {
        Some((client, server)) => (client.to_string(), server.to_string()),
        None => ("other".to_owned(), "other".to_owned()),
    };
    let rest = if key.ends.is_some() { "" } else { "other" };
    let more = match key.more {
        More::Nothing => None,
        More::Side(side) => Some(("side", side)),
        More::App(app) => Some(("app_protocol", app.map_or("", App::name))),
    };
    let pair = [("src_workload", &*client), ("dst_service", rest), ("dst_workload", &*server), ("dst_namespace", rest)];
    match more {
        None => f(&pair),
        Some(more) => f(&[pair[0], pair[1], pair[2], pair[3], more]),
    }
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
