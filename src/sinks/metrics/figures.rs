//! Figures on the page of metrics. Each owner of some lists its families next to its own state, and fills them when the page is made.
//! [`FigureList`] is the list of owners, and the page is made by walking it.

use std::collections::BTreeMap;

use super::page::Reading;
use super::text::{LabelText, Lines};
use crate::bpf::Tally;

/// A metric family: its name, its type, and the help text of the page.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The metric's name.
    pub name: &'static str,
    kind: &'static str,
    help: &'static str,
}

impl Family {
    /// A number that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Family {
        Family { name, kind: "counter", help }
    }

    /// A number that rises and falls.
    pub const fn gauge(name: &'static str, help: &'static str) -> Family {
        Family { name, kind: "gauge", help }
    }

    /// Samples by bucket.
    pub const fn histogram(name: &'static str, help: &'static str) -> Family {
        Family { name, kind: "histogram", help }
    }

    /// Quantiles of samples.
    pub const fn summary(name: &'static str, help: &'static str) -> Family {
        Family { name, kind: "summary", help }
    }
}

/// The owner of figures.
pub trait Figures {
    /// Every family that [`Figures::collect`] may fill. A family belongs to one owner.
    const FAMILIES: &'static [Family];

    /// Adds its figures as they are now. The `reading`, taken a moment before, has what the workers count.
    fn collect(&self, reading: &Reading, families: &mut Families);
}

type Collect<S> = Box<dyn Fn(&S, &Reading, &mut Families) + Send + Sync>;

struct Owner<S> {
    families: &'static [Family],
    collect: Collect<S>,
}

/// Those whose figures are on a page, each a part of `S`.
pub struct FigureList<S>(Vec<Owner<S>>);

impl<S> Default for FigureList<S> {
    fn default() -> FigureList<S> {
        FigureList(Vec::new())
    }
}

impl<S: 'static> FigureList<S> {
    /// With one more owner, which `find` finds.
    #[must_use]
    pub fn with<F: Figures + 'static>(self, find: impl Fn(&S) -> &F + Send + Sync + 'static) -> FigureList<S> {
        self.with_optional(move |all| Some(find(all)))
    }

    /// With one more owner, which may be missing: its families are not on the page then.
    #[must_use]
    pub fn with_optional<F: Figures + 'static>(
        mut self,
        find: impl Fn(&S) -> Option<&F> + Send + Sync + 'static,
    ) -> FigureList<S> {
        let collect = move |all: &S, reading: &Reading, families: &mut Families| {
            if let Some(figures) = find(all) {
                figures.collect(reading, families);
            }
        };
        self.0.push(Owner { families: F::FAMILIES, collect: Box::new(collect) });
        self
    }

    /// With all owners of another list, which are parts of a part.
    #[must_use]
    pub fn with_all<T: 'static>(
        mut self,
        list: FigureList<T>,
        find: impl Fn(&S) -> &T + Clone + Send + Sync + 'static,
    ) -> FigureList<S> {
        self.0.extend(list.0.into_iter().map(|owner| {
            let (find, collect) = (find.clone(), owner.collect);
            Owner {
                families: owner.families,
                collect: Box::new(move |all: &S, reading: &Reading, page: &mut Families| {
                    collect(find(all), reading, page)
                }),
            }
        }));
        self
    }

    /// The name of every metric there may be.
    pub fn metric_names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().flat_map(|owner| owner.families).map(|family| family.name)
    }

    /// The text of all families with their figures, in the order of their names.
    pub(super) fn collect(&self, all: &S, reading: &Reading) -> Vec<u8> {
        let mut families = Families { listed: &[], places: BTreeMap::new(), filled: Vec::new() };
        for owner in &self.0 {
            families.listed = owner.families;
            (owner.collect)(all, reading, &mut families);
        }
        families.into_text()
    }
}

/// The families of a page while they are being filled.
pub struct Families {
    /// Those of the present owner.
    listed: &'static [Family],
    /// Where in `filled` each is, by name.
    places: BTreeMap<&'static str, Place>,
    filled: Vec<(Family, Lines)>,
}

/// Where a family is: a page with many series finds it once for all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(usize);

impl Families {
    /// Where this family of the present owner is; `None` if it has none of this name.
    pub(super) fn place(&mut self, name: &'static str) -> Option<Place> {
        if let Some(&place) = self.places.get(name) {
            return Some(place);
        }
        let family = self.listed.iter().find(|family| family.name == name);
        debug_assert!(family.is_some(), "{name} is not among its owner's families");
        let place = Place(self.filled.len());
        self.filled.push((*family?, Lines::new(name)));
        self.places.insert(name, place);
        Some(place)
    }

    /// The lines of a family so far.
    pub(super) fn at(&mut self, place: Place) -> &mut Lines {
        &mut self.filled[place.0].1
    }

    /// Families without a line are left out.
    fn into_text(mut self) -> Vec<u8> {
        let heads = |family: &Family| {
            let Family { name, kind, help } = family;
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
        };
        let head_most = 256 * self.filled.len();
        let lines: usize = self.filled.iter().map(|(_, lines)| lines.text.len()).sum();
        let mut text = Vec::with_capacity(head_most + lines);
        for place in self.places.values() {
            let (family, lines) = &mut self.filled[place.0];
            if !lines.text.is_empty() {
                text.extend_from_slice(heads(family).as_bytes());
                // Each is freed before the next is copied: all of them are many megabytes.
                text.extend_from_slice(std::mem::take(&mut lines.text).as_bytes());
            }
        }
        text.shrink_to_fit();
        text
    }

    /// Adds a series of a counter or a gauge, with its labels in their order on the page.
    pub fn add(&mut self, name: &'static str, pairs: &[(&str, &str)], value: f64) {
        if let Some(place) = self.place(name) {
            self.at(place).sample(&LabelText::of(pairs), value);
        }
    }

    /// Adds a series of packets and the same of bytes.
    pub fn tally(&mut self, packets: &'static str, bytes: &'static str, pairs: &[(&str, &str)], tally: Tally) {
        self.add(packets, pairs, tally.packets as f64);
        self.add(bytes, pairs, tally.bytes as f64);
    }

    /// Adds a summary without labels: how many samples, their sum, and values by quantile.
    pub fn summary(&mut self, name: &'static str, count: u64, sum: f64, quantiles: &[(f64, f64)]) {
        let Some(place) = self.place(name) else { return };
        let (lines, labels) = (self.at(place), LabelText::default());
        for (quantile, value) in quantiles {
            lines.line("", &labels, Some(("quantile", &quantile.to_string())), *value);
        }
        lines.line("_sum", &labels, None, sum);
        lines.line("_count", &labels, None, count as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sinks::metrics::{Keys, Sums};

    struct Doors(u64);

    impl Figures for Doors {
        const FAMILIES: &'static [Family] =
            &[Family::counter("doors_total", "Doors."), Family::gauge("doors_open", "Open doors.")];

        fn collect(&self, _: &Reading, families: &mut Families) {
            families.add("doors_total", &[], self.0 as f64);
        }
    }

    /// Fills what is not in its own list, but in that of somebody else.
    struct Thief;

    impl Figures for Thief {
        const FAMILIES: &'static [Family] = &[];

        fn collect(&self, _: &Reading, families: &mut Families) {
            families.add("doors_open", &[], 1.0);
        }
    }

    fn filled<S: 'static>(list: &FigureList<S>, all: &S) -> Vec<String> {
        let reading = Reading::new(Sums::new(Arc::default()), Keys::default());
        let text = String::from_utf8(list.collect(all, &reading)).unwrap();
        let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split([' ', '{']).next());
        names.map(str::to_owned).collect()
    }

    #[test]
    fn an_owner_may_be_a_part_of_a_part_or_be_missing() {
        type House = (Option<Doors>, (Doors, u8));
        let inner = FigureList::default().with(|part: &(Doors, u8)| &part.0);
        let list = FigureList::default().with_all(inner, |house: &House| &house.1);
        assert_eq!(list.metric_names().collect::<Vec<_>>(), ["doors_total", "doors_open"]);
        assert_eq!(filled(&list, &(None, (Doors(1), 0))), ["doors_total"]);
        let list = FigureList::default().with_optional(|house: &House| house.0.as_ref());
        assert_eq!(list.metric_names().count(), 2, "it might be there");
        assert!(filled(&list, &(None, (Doors(1), 0))).is_empty());
    }

    #[test]
    #[should_panic = "doors_open is not among its owner's families"]
    fn a_family_has_to_be_in_its_owners_list() {
        let list = FigureList::default().with(|all: &(Doors, Thief)| &all.0).with(|all| &all.1);
        filled(&list, &(Doors(1), Thief));
    }
}
