//! The families of times, troubles and outcomes.

use super::ends::{Identification, Role};
use super::figures::Families;
use super::pairs::{Histogram, Pairs};
use super::series::{COUNTERS, ExtraLabels, PairKey, TIMED};
use super::text::{LabelText, Lines};
use crate::bpf::App;
use crate::config::Buckets;
use crate::flow::{Reason, protocol_name};

/// Adds them.
pub(super) fn pairs(families: &mut Families, pairs: &Pairs, kept: &Identification) {
    let mut labels = LabelText::default();
    // Prometheus wants seconds.
    let bounds: Vec<String> = pairs.buckets.bounds_ns().iter().map(|ns| (*ns as f64 / 1e9).to_string()).collect();
    for (name, histograms) in TIMED.into_iter().zip(&pairs.timed) {
        let Some(place) = families.place(name) else { return };
        for (key, counted) in histograms {
            fill(&mut labels, key, kept);
            buckets(families.at(place), &labels, &counted.count, &bounds, &pairs.buckets);
        }
    }
    for (name, counters) in COUNTERS.into_iter().zip(&pairs.counters) {
        let Some(place) = families.place(name) else { return };
        for (key, counted) in counters {
            fill(&mut labels, key, kept);
            families.at(place).sample(&labels, counted.count as f64);
        }
    }
}

/// Sets the labels to those of the key.
fn fill(labels: &mut LabelText, key: &PairKey, kept: &Identification) {
    labels.clear();
    match &key.ends {
        Some((client, server)) => {
            client.each(Role::Client, kept, |name, value| labels.add(name, value));
            server.each(Role::Server, kept, |name, value| labels.add(name, value));
        }
        None => {
            let names = Role::Client.kept(kept).chain(Role::Server.kept(kept));
            names.for_each(|(_, name)| labels.add(name, "other"));
        }
    }
    match key.extra {
        ExtraLabels::Nothing => {}
        ExtraLabels::Side(side) => labels.add("side", side),
        ExtraLabels::App(app) => labels.add("app_protocol", app.map_or("", App::name)),
        ExtraLabels::Ended { protocol, direction, outcome } => {
            labels.add("protocol", protocol_name(protocol));
            labels.add("direction", direction.name());
            labels.add("status", outcome.status().name());
            labels.add("reason", outcome.reason().map_or("", Reason::label));
        }
    }
}

/// Adds a histogram; `bounds` are those of the buckets as text.
fn buckets(lines: &mut Lines, labels: &LabelText, histogram: &Histogram, bounds: &[String], buckets: &Buckets) {
    for (bound, (_, count)) in bounds.iter().zip(histogram.cumulative(buckets)) {
        lines.line("_bucket", labels, Some(("le", bound)), count as f64);
    }
    lines.line("_bucket", labels, Some(("le", "+Inf")), histogram.count() as f64);
    lines.line("_sum", labels, None, histogram.sum_seconds());
    lines.line("_count", labels, None, histogram.count() as f64);
}
