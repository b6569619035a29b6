//! Which metric takes how much of the budget, and which label makes it so many.

use std::collections::HashSet;

use super::ends::{End, Role};
use super::series::{COUNTERS, PairKey, SeriesIndex, TIMED};
use crate::config::Labels;

/// What a metric takes of the budget.
#[derive(Clone, Debug)]
pub struct MetricSpread {
    /// Its name.
    pub metric: &'static str,
    /// Lines in use.
    pub lines: usize,
    /// How often something found no room.
    pub refused: u64,
    /// Series that have left.
    pub expired: u64,
    /// Values that each label has, the one with most first.
    pub labels: Vec<(&'static str, usize)>,
}

fn distinct<T: Eq + std::hash::Hash>(values: impl Iterator<Item = T>) -> usize {
    values.collect::<HashSet<T>>().len()
}

/// Values of each kept label of these ends.
fn of_ends<'a>(
    ends: impl Iterator<Item = &'a End> + Clone,
    role: Role,
    labels: Labels,
) -> impl Iterator<Item = (&'static str, usize)> {
    role.kept(labels).map(move |(place, name)| (name, distinct(ends.clone().filter_map(|end| end.value(role, place)))))
}

impl SeriesIndex {
    /// By metric, what takes how much of the budget.
    pub fn spread(&self) -> Vec<MetricSpread> {
        let labels = self.telling().labels;
        let traffic: Vec<_> = self.traffic.keys().into_iter().flatten().collect();
        let mut of_traffic: Vec<_> = of_ends(traffic.iter().map(|key| &key.source), Role::Source, labels)
            .chain(of_ends(traffic.iter().map(|key| &key.destination), Role::Destination, labels))
            .collect();
        of_traffic.push(("app_protocol", distinct(traffic.iter().map(|key| key.app.map(|app| app.name())))));
        of_traffic.push(("protocol", distinct(traffic.iter().map(|key| key.protocol))));
        let of_pairs = |keys: Vec<Option<PairKey>>| {
            let ends: Vec<(End, End)> = keys.into_iter().flatten().filter_map(|key| key.ends).collect();
            of_ends(ends.iter().map(|ends| &ends.0), Role::Client, labels)
                .chain(of_ends(ends.iter().map(|ends| &ends.1), Role::Server, labels))
                .collect()
        };
        let spread = |used: super::series::Use| {
            let pairs = TIMED.iter().zip(&self.timed).chain(COUNTERS.iter().zip(&self.counters));
            let of_metric = pairs.into_iter().find(|(name, _)| **name == used.metric);
            let mut labels: Vec<_> =
                of_metric.map_or_else(|| of_traffic.clone(), |(_, numbers)| of_pairs(numbers.keys()));
            labels.sort_by_key(|(_, values)| std::cmp::Reverse(*values));
            let super::series::Use { metric, lines, refused, expired } = used;
            MetricSpread { metric, lines, refused, expired, labels }
        };
        self.usage().into_iter().map(spread).collect()
    }
}
