//! The flows that come first in the order of a field. Only the position of each flow is kept, and its key while they are sorted: lines
//! are made when somebody reads them.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::api::{Api, At};
use crate::clients::Share;
use crate::filter::{Field, Filter, Kind, Value};
use crate::line::Line;

/// There is no room for that many flows.
pub(super) struct NoRoom;

/// An order of flows.
#[derive(Clone, Copy)]
pub(super) struct Order {
    pub(super) field: &'static Field,
    /// The least comes first. Flows without the field come last in either order.
    pub(super) reverse: bool,
}

impl Order {
    /// The positions of the first `most` flows that match. `share` grows by what they take.
    pub(super) fn first(
        self,
        api: &dyn Api,
        filter: &Filter,
        most: usize,
        share: &mut Share,
    ) -> Result<Vec<At>, NoRoom> {
        // One at a time: several clients together need no more room for sorting than one does.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.field.kind, self.reverse) {
            (Kind::Number, false) => ranked(api, filter, most, share, |line| number(self.value(line), 1.0)),
            (Kind::Number, true) => ranked(api, filter, most, share, |line| number(self.value(line), -1.0)),
            (Kind::Text, false) => ranked(api, filter, most, share, |line| text(self.value(line))),
            (Kind::Text, true) => ranked(api, filter, most, share, |line| text(self.value(line)).map(Reverse)),
            (Kind::Address, false) => ranked(api, filter, most, share, |line| address(self.value(line))),
            (Kind::Address, true) => ranked(api, filter, most, share, |line| address(self.value(line)).map(Reverse)),
        }
    }

    /// Sorts flows by their present values.
    pub(super) fn sort(self, lines: &mut [Line]) {
        match (self.field.kind, self.reverse) {
            (Kind::Number, false) => lines.sort_by_cached_key(|line| Reverse(number(self.value(line), 1.0))),
            (Kind::Number, true) => lines.sort_by_cached_key(|line| Reverse(number(self.value(line), -1.0))),
            (Kind::Text, false) => lines.sort_by_cached_key(|line| Reverse(text(self.value(line)))),
            (Kind::Text, true) => lines.sort_by_cached_key(|line| Reverse(text(self.value(line)).map(Reverse))),
            (Kind::Address, false) => lines.sort_by_cached_key(|line| Reverse(address(self.value(line)))),
            (Kind::Address, true) => lines.sort_by_cached_key(|line| Reverse(address(self.value(line)).map(Reverse))),
        }
    }

    fn value(self, line: &Line) -> Option<Value<'_>> {
        (self.field.values)(line)[0]
    }
}

/// A sort key; the greater comes first.
trait Rank: Ord {
    /// Bytes that it has on the heap.
    fn more_bytes(&self) -> usize {
        0
    }
}

/// A number with a total order.
#[derive(Clone, Copy)]
struct Number(f64);

impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Number {}

fn number(value: Option<Value<'_>>, sign: f64) -> Number {
    match value {
        Some(Value::Number(number)) => Number(sign * number),
        _ => Number(f64::NEG_INFINITY),
    }
}

fn text(value: Option<Value<'_>>) -> Option<Box<str>> {
    match value {
        Some(Value::Text(text)) => Some(text.into()),
        _ => None,
    }
}

fn address(value: Option<Value<'_>>) -> Option<IpAddr> {
    match value {
        Some(Value::Address(ip)) => Some(ip),
        _ => None,
    }
}

impl Rank for Number {}
impl Rank for Option<IpAddr> {}
impl Rank for Option<Reverse<IpAddr>> {}

impl Rank for Option<Box<str>> {
    fn more_bytes(&self) -> usize {
        self.as_ref().map_or(0, |text| allocated(text))
    }
}

impl Rank for Option<Reverse<Box<str>>> {
    fn more_bytes(&self) -> usize {
        self.as_ref().map_or(0, |Reverse(text)| allocated(text))
    }
}

/// The size of an allocation, with what the allocator adds.
fn allocated(text: &str) -> usize {
    text.len().next_multiple_of(16) + 16
}

fn ranked<K: Rank>(
    api: &dyn Api,
    filter: &Filter,
    most: usize,
    share: &mut Share,
    key: impl Fn(&Line) -> K,
) -> Result<Vec<At>, NoRoom> {
    let before = share.bytes();
    let mut kept: BinaryHeap<Reverse<(K, Reverse<At>)>> = BinaryHeap::new();
    let mut room = true;
    api.flows(filter, &mut |at, line| {
        let (key, full) = (key(&line), kept.len() >= most);
        // Once `most` are kept, a flow has to be greater than the least of them.
        if full && kept.peek().is_none_or(|Reverse((least, place))| (&key, &Reverse(at)) <= (least, place)) {
            return most > 0;
        }
        let capacity = kept.capacity();
        let grown = if kept.len() == capacity { (most - kept.len()).min(capacity.max(1024)) } else { 0 };
        room = share.grow(grown * size_of::<Reverse<(K, Reverse<At>)>>() + key.more_bytes());
        if room {
            if full {
                kept.pop();
            }
            kept.reserve_exact(grown);
            kept.push(Reverse((key, Reverse(at))));
        }
        room
    });
    if !room {
        return Err(NoRoom);
    }
    let mut first: Vec<At> = Vec::with_capacity(kept.len());
    if !share.grow(size_of_val(first.spare_capacity_mut())) {
        return Err(NoRoom);
    }
    first.extend(kept.into_sorted_vec().into_iter().map(|Reverse((_, Reverse(at)))| at));
    share.shrink(before + size_of_val(first.as_slice()));
    Ok(first)
}
