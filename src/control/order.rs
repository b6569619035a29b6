//! The flows that come first in the order of a field.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::api::Api;
use crate::filter::{Field, Filter, Value};
use crate::output::Line;

/// The first `most` in the order of a field: the greatest, or with `reverse` the least. What lacks the field comes last.
pub(super) fn sorted(api: &dyn Api, filter: &Filter, field: &Field, reverse: bool, most: usize) -> Vec<Line> {
    let mut kept: BinaryHeap<Reverse<Ranked>> = BinaryHeap::new();
    api.flows(&mut |line| {
        if most > 0 && filter.matches(&line) {
            let rank = Rank::of((field.values)(&line)[0], reverse);
            kept.push(Reverse(Ranked(rank, line)));
            if kept.len() > most {
                kept.pop();
            }
        }
        true
    });
    kept.into_sorted_vec().into_iter().map(|Reverse(Ranked(_, line))| line).collect()
}

enum Rank {
    Absent,
    Number(f64, bool),
    Text(String, bool),
}

impl Rank {
    fn of(value: Option<Value<'_>>, reverse: bool) -> Rank {
        match value {
            None => Rank::Absent,
            Some(Value::Number(number)) => Rank::Number(number, reverse),
            Some(Value::Text(text)) => Rank::Text(text.to_owned(), reverse),
            Some(Value::Address(ip)) => Rank::Text(ip.to_string(), reverse),
        }
    }

    fn compare(&self, other: &Rank) -> Ordering {
        let turned = |order: Ordering, reverse: &bool| if *reverse { order.reverse() } else { order };
        match (self, other) {
            (Rank::Number(a, reverse), Rank::Number(b, _)) => turned(a.total_cmp(b), reverse),
            (Rank::Text(a, reverse), Rank::Text(b, _)) => turned(a.cmp(b), reverse),
            (Rank::Absent, Rank::Absent) => Ordering::Equal,
            (Rank::Absent, _) => Ordering::Less,
            _ => Ordering::Greater,
        }
    }
}

struct Ranked(Rank, Line);

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.0.compare(&other.0).then_with(|| other.1.id.cmp(&self.1.id))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}
