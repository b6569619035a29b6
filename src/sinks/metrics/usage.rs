//! How much of the budget each metric takes, and which of its labels cause that.

use std::collections::HashSet;

use super::ends::{End, Identification, Role};
use super::series::{COUNTERS, LinesUsed, PairKey, SeriesIndex, TIMED};

/// What a metric takes of the budget.
#[derive(Clone, Debug)]
pub struct MetricUsage {
    /// The metric's name.
    pub metric: &'static str,
    /// Lines in use.
    pub lines: usize,
    /// Times something found no room.
    pub refused: u64,
    /// Series that have expired.
    pub expired: u64,
    /// How many values each label has, the largest number first.
    pub labels: Vec<(String, usize)>,
}

fn distinct<T: Eq + std::hash::Hash>(values: impl Iterator<Item = T>) -> usize {
    values.collect::<HashSet<T>>().len()
}

/// How many values each kept label of these ends has.
fn of_ends<'a>(
    ends: impl Iterator<Item = &'a End> + Clone,
    role: Role,
    kept: &Identification,
) -> impl Iterator<Item = (String, usize)> {
    role.kept(kept)
        .map(move |(place, name)| (name.to_owned(), distinct(ends.clone().filter_map(|end| end.value(role, place)))))
}

impl SeriesIndex {
    /// What each metric takes of the budget.
    pub fn usage(&self) -> Vec<MetricUsage> {
        let kept = self.identification();
        let traffic: Vec<_> = self.traffic.keys().into_iter().flatten().collect();
        let mut of_traffic: Vec<_> = of_ends(traffic.iter().map(|key| &key.source), Role::Source, &kept)
            .chain(of_ends(traffic.iter().map(|key| &key.destination), Role::Destination, &kept))
            .collect();
        of_traffic.push(("app_protocol".to_owned(), distinct(traffic.iter().map(|key| key.app.map(|app| app.name())))));
        of_traffic.push(("protocol".to_owned(), distinct(traffic.iter().map(|key| key.protocol))));
        let of_pairs = |keys: Vec<Option<PairKey>>| {
            let ends: Vec<(End, End)> = keys.into_iter().flatten().filter_map(|key| key.ends).collect();
            of_ends(ends.iter().map(|ends| &ends.0), Role::Client, &kept)
                .chain(of_ends(ends.iter().map(|ends| &ends.1), Role::Server, &kept))
                .collect()
        };
        let usage = |used: LinesUsed| {
            let pairs = TIMED.iter().zip(&self.timed).chain(COUNTERS.iter().zip(&self.counters));
            let of_metric = pairs.into_iter().find(|(name, _)| **name == used.metric);
            let mut labels: Vec<_> =
                of_metric.map_or_else(|| of_traffic.clone(), |(_, numbers)| of_pairs(numbers.keys()));
            labels.sort_by_key(|(_, values)| std::cmp::Reverse(*values));
            let LinesUsed { metric, lines, refused, expired } = used;
            MetricUsage { metric, lines, refused, expired, labels }
        };
        self.lines_used().into_iter().map(usage).collect()
    }
}
