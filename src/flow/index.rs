//! Finds flows by hash: one array, sorted by hash, with gaps. A hash says about where in the array its entry is, so a flow is found
//! within a cache line or two, which can be brought into a cache before they are needed.

/// An entry: a flow's hash, and where the flow is.
#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    /// [`NONE`] in a gap.
    flow: u32,
}

const NONE: u32 = u32::MAX;
const GAP: Slot = Slot { hash: 0, flow: NONE };

/// Slots that are expected behind those in which entries belong.
const SPARE: usize = 64;
/// Slots of the smallest index.
const LEAST: usize = 64;

/// The index of a table's flows.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Empty until there is something to find. The last one is a gap: behind the slots in which entries belong are as
    /// many as those need that were pushed on.
    slots: Vec<Slot>,
    /// Slots in which an entry may belong.
    homes: usize,
    len: usize,
}

/// Slots for so many flows: a quarter more, so that gaps are near.
fn slots_for(flows: usize) -> usize {
    (flows + flows / 4).max(LEAST)
}

impl Index {
    /// Number of flows.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of flows for which there is room.
    pub(super) fn capacity(&self) -> usize {
        self.homes * 4 / 5
    }

    /// The slot in which an entry with this hash is, if none pushed it on.
    fn home(hash: u32, homes: usize) -> usize {
        ((u64::from(hash) * homes as u64) >> 32) as usize
    }

    /// Reads where a flow with this hash would be, so that it is in a cache.
    #[inline]
    pub(super) fn warm(&self, hash: u32) {
        if let Some(slot) = self.slots.get(Index::home(hash, self.homes)) {
            std::hint::black_box(slot.flow);
        }
    }

    /// The first flow with this hash that `is_it` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let found = self.place(hash, is_it)?;
        Some(self.slots[found].flow)
    }

    #[inline]
    fn place(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        let home = Index::home(hash, self.homes);
        for (place, slot) in (home..).zip(self.slots.get(home..)?) {
            if slot.flow == NONE || slot.hash > hash {
                return None;
            }
            if slot.hash == hash && is_it(slot.flow) {
                return Some(place);
            }
        }
        None
    }

    /// Adds a flow.
    pub(super) fn insert(&mut self, hash: u32, flow: u32) {
        if self.len >= self.capacity() {
            self.resize(self.capacity() + self.capacity() / 4);
        }
        // It belongs behind those with lower or equal hashes.
        let home = Index::home(hash, self.homes);
        let ahead = self.slots[home..].iter().take_while(|slot| slot.flow != NONE && slot.hash <= hash).count();
        let at = home + ahead;
        let gap = at + self.slots[at..].iter().take_while(|slot| slot.flow != NONE).count();
        self.slots.copy_within(at..gap, at + 1);
        self.slots[at] = Slot { hash, flow };
        if gap + 1 == self.slots.len() {
            self.slots.push(GAP);
        }
        self.len += 1;
    }

    /// Removes a flow.
    pub(super) fn remove(&mut self, hash: u32, flow: u32) {
        let Some(at) = self.place(hash, |found| found == flow) else { return };
        let homes = self.homes;
        // Those that it pushed on move up.
        let pushed = |(place, slot): &(usize, &Slot)| slot.flow != NONE && Index::home(slot.hash, homes) < *place;
        let end = at + 1 + (at + 1..).zip(&self.slots[at + 1..]).take_while(pushed).count();
        self.slots.copy_within(at + 1..end, at);
        self.slots[end - 1] = GAP;
        self.len -= 1;
    }

    /// Releases memory, if there is room for more than `flows` and more than are here.
    pub(super) fn shrink_to(&mut self, flows: usize) {
        if flows < self.capacity() {
            self.resize(flows);
        }
    }

    /// Makes room for so many flows, at least for those that are here.
    fn resize(&mut self, flows: usize) {
        let homes = slots_for(flows.max(self.len));
        let mut slots = Vec::with_capacity(homes + SPARE);
        // In the order of their hashes, each goes to its home, or behind the one before it.
        for slot in self.iter_slots() {
            slots.resize(Index::home(slot.hash, homes).max(slots.len()), GAP);
            slots.push(*slot);
        }
        slots.resize((homes + 1).max(slots.len() + 1), GAP);
        *self = Index { slots, homes, len: self.len };
    }

    fn iter_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.flow != NONE)
    }

    /// All flows.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.iter_slots().map(|slot| slot.flow)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn it_finds_what_a_set_finds() {
        let mut random = SmallRng::seed_from_u64(1);
        let (mut index, mut set) = (Index::default(), BTreeSet::new());
        for round in 0..200_000u32 {
            // Few distinct hashes, some at the end of the array, so that many entries are pushed on.
            let hash =
                if round % 3 == 0 { u32::MAX - random.random_range(0..20) } else { random.random::<u32>() << 20 };
            let flow = random.random_range(0..40);
            let has = set.contains(&(hash, flow));
            assert_eq!(index.find(hash, |found| found == flow), has.then_some(flow));
            match has {
                true if random.random_bool(0.4) => {
                    index.remove(hash, flow);
                    set.remove(&(hash, flow));
                }
                true => {}
                false => {
                    index.insert(hash, flow);
                    set.insert((hash, flow));
                }
            }
            assert_eq!(index.len(), set.len());
            if round % 10_000 == 0 {
                index.shrink_to(2 * index.len());
                let mut all: Vec<u32> = index.iter().collect();
                all.sort_unstable();
                let mut expected: Vec<u32> = set.iter().map(|(_, flow)| *flow).collect();
                expected.sort_unstable();
                assert_eq!(all, expected);
            }
        }
        for (hash, flow) in set {
            index.remove(hash, flow);
            assert_eq!(index.find(hash, |found| found == flow), None);
        }
        index.shrink_to(0);
        assert!(index.is_empty() && index.iter().count() == 0 && index.capacity() <= LEAST);
    }

    #[test]
    fn its_memory_follows_the_flows() {
        let mut index = Index::default();
        for flow in 0..500_000u32 {
            index.insert(flow.wrapping_mul(0x9e37_79b9), flow);
        }
        assert!(index.slots.len() < 850_000, "{}", index.slots.len());
        assert!((0..500_000u32).all(|flow| index.find(flow.wrapping_mul(0x9e37_79b9), |_| true) == Some(flow)));
    }
}
