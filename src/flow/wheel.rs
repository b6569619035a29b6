//! A timing wheel that says when to look at a flow again. A packet does not move its flow on the wheel: when the flow
//! is due, the table sees how long it really was silent and puts it back for the rest. So a record costs nothing here,
//! and expiry costs time per flow, not per packet.
//!
//! The flows of one second form a list through the flows themselves: each flow is in one list, its link goes with it,
//! and the wheel takes no memory that the table does not.

use super::slab::Slab;

/// A hashed timing wheel of one-second slots.
pub(super) struct Wheel {
    /// Heads of the slots' lists, which are rings; the last is that of the flows that are due.
    heads: Box<[Link]>,
    /// A bit for each slot that may have flows: it is cleared when the slot is found to be empty.
    taken: [u64; SLOTS as usize / 64],
    /// The next second to be turned.
    now: u64,
}

/// The neighbours in a list of the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    before: u32,
    after: u32,
}

impl Default for Link {
    /// A link that is on no wheel.
    fn default() -> Link {
        Link { before: NOWHERE, after: NOWHERE }
    }
}

impl Link {
    /// The flow behind this one in its list.
    pub(super) fn next(self) -> Option<u32> {
        (self.after < HEADS).then_some(self.after)
    }
}

/// Something that can be on a wheel.
pub(super) trait Linked {
    fn link(&mut self) -> &mut Link;
}

/// Slots of one second each. Longer waits come around and are put back.
const SLOTS: u64 = 512;
const NOWHERE: u32 = u32::MAX;
/// Numbers from here on are heads; lower ones are indices of flows. There are never that many flows.
const HEADS: u32 = NOWHERE - 1 - SLOTS as u32;
const DUE: u32 = HEADS + SLOTS as u32;

impl Wheel {
    pub(super) fn new(now: u64) -> Wheel {
        Wheel {
            heads: (HEADS..=DUE).map(|head| Link { before: head, after: head }).collect(),
            taken: Default::default(),
            now,
        }
    }

    /// The latest second that has a slot of its own.
    pub(super) fn last(&self) -> u64 {
        self.now + SLOTS - 1
    }

    fn head(at: u64) -> u32 {
        HEADS + (at % SLOTS) as u32
    }

    fn link<'a, T: Linked>(&'a mut self, flows: &'a mut Slab<T>, number: u32) -> Option<&'a mut Link> {
        match number.checked_sub(HEADS) {
            Some(head) => self.heads.get_mut(head as usize),
            None => flows.get_mut(number).map(T::link),
        }
    }

    fn join<T: Linked>(&mut self, flows: &mut Slab<T>, before: u32, after: u32) {
        if let Some(link) = self.link(flows, before) {
            link.after = after;
        }
        if let Some(link) = self.link(flows, after) {
            link.before = before;
        }
    }

    /// Schedules flow `index` for the second `at`, or for the last slot if that is too far off. An earlier schedule is
    /// replaced.
    pub(super) fn schedule<T: Linked>(&mut self, flows: &mut Slab<T>, index: u32, at: u64) {
        self.remove(flows, index);
        let at = at.clamp(self.now, self.last());
        let head = Wheel::head(at);
        let slot = at % SLOTS;
        self.taken[(slot / 64) as usize] |= 1 << (slot % 64);
        let last = self.heads[(head - HEADS) as usize].before;
        self.join(flows, last, index);
        self.join(flows, index, head);
    }

    /// Takes a flow off the wheel.
    pub(super) fn remove<T: Linked>(&mut self, flows: &mut Slab<T>, index: u32) {
        let Some(Link { before, after }) = flows.get_mut(index).map(|flow| std::mem::take(flow.link())) else { return };
        if before != NOWHERE {
            self.join(flows, before, after);
        }
    }

    /// Advances to the second `to`: everything up to it becomes due.
    pub(super) fn turn<T: Linked>(&mut self, flows: &mut Slab<T>, to: u64) {
        // After a pause of more than a whole turn, every slot is due once.
        let end = to.min(self.last());
        while self.now <= end {
            let head = Wheel::head(self.now);
            let Link { before, after } = self.heads[(head - HEADS) as usize];
            if after != head {
                let last = self.heads[(DUE - HEADS) as usize].before;
                self.join(flows, last, after);
                self.join(flows, before, DUE);
                self.heads[(head - HEADS) as usize] = Link { before: head, after: head };
            }
            self.now += 1;
        }
        self.now = self.now.max(to + 1);
    }

    /// Takes the next flow that is due off the wheel.
    pub(super) fn due<T: Linked>(&mut self, flows: &mut Slab<T>) -> Option<u32> {
        self.take_first(flows, DUE)
    }

    /// Takes the flow that will be due first off the wheel; returns its second and index.
    pub(super) fn pop<T: Linked>(&mut self, flows: &mut Slab<T>) -> Option<(u64, u32)> {
        let at = self.earliest()?;
        Some((at, self.take_first(flows, Wheel::head(at))?))
    }

    /// The first second that has flows.
    fn earliest(&mut self) -> Option<u64> {
        let mut at = self.now;
        while at <= self.last() {
            let slot = at % SLOTS;
            let (word, bit) = ((slot / 64) as usize, slot % 64);
            match self.taken[word] >> bit {
                0 => at += 64 - bit,
                ahead if ahead & 1 == 0 => at += u64::from(ahead.trailing_zeros()),
                _ if self.first(at).is_some() => return Some(at),
                _ => self.taken[word] &= !(1 << bit),
            }
        }
        None
    }

    /// The first of the flows that are scheduled for this second.
    pub(super) fn first(&self, at: u64) -> Option<u32> {
        Link { before: NOWHERE, after: self.heads[(Wheel::head(at) - HEADS) as usize].after }.next()
    }

    fn take_first<T: Linked>(&mut self, flows: &mut Slab<T>, head: u32) -> Option<u32> {
        let first = self.heads[(head - HEADS) as usize].after;
        if first == head {
            return None;
        }
        self.remove(flows, first);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Linked for Link {
        fn link(&mut self) -> &mut Link {
            self
        }
    }

    /// A wheel, and what is on it.
    struct On(Wheel, Slab<Link>);

    impl On {
        fn new(now: u64, flows: u32) -> On {
            let mut slab = Slab::default();
            for _ in 0..flows {
                slab.insert(Link::default());
            }
            On(Wheel::new(now), slab)
        }

        fn schedule(&mut self, at: u64, index: u32) {
            self.0.schedule(&mut self.1, index, at);
        }

        fn turn(&mut self, to: u64) -> Vec<u32> {
            self.0.turn(&mut self.1, to);
            std::iter::from_fn(|| self.0.due(&mut self.1)).collect()
        }
    }

    #[test]
    fn entries_come_when_they_are_due() {
        let mut on = On::new(100, 10);
        for (at, index) in [(99, 0), (101, 1), (110, 3), (100 + 10 * SLOTS, 9)] {
            on.schedule(at, index);
        }
        assert_eq!(on.turn(101), [0, 1]);
        assert_eq!(on.turn(102), [0; 0]);
        assert_eq!(on.turn(110), [3]);
        assert_eq!(on.turn(100 + SLOTS), [9], "the latest second of the wheel");
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let mut on = On::new(0, 1000);
        for index in 0..1000 {
            on.schedule(index.into(), index);
        }
        assert_eq!(on.turn(1_000_000).len(), 1000);
        on.schedule(1_000_005, 7);
        assert_eq!(on.turn(1_000_005), [7]);
    }

    #[test]
    fn pop_takes_the_earliest() {
        let mut on = On::new(10, 4);
        for (at, index) in [(300, 2), (20, 1), (20, 3)] {
            on.schedule(at, index);
        }
        let all: Vec<_> = std::iter::from_fn(|| on.0.pop(&mut on.1)).collect();
        assert_eq!(all, [(20, 1), (20, 3), (300, 2)]);
    }

    #[test]
    fn pop_takes_the_earliest_wherever_the_ring_begins() {
        for now in (0..2 * SLOTS).step_by(37) {
            let mut on = On::new(now, 6);
            // One that is rescheduled leaves its first second empty.
            on.schedule(now + 1, 0);
            let times = [SLOTS - 1, 63, 64, 0, 200, 200].map(|later| now + later);
            (0..).zip(times).for_each(|(index, at)| on.schedule(at, index));
            let all: Vec<_> = std::iter::from_fn(|| on.0.pop(&mut on.1)).collect();
            let expected = [(3, 0), (1, 63), (2, 64), (4, 200), (5, 200), (0, SLOTS - 1)];
            assert_eq!(all, expected.map(|(index, later)| (now + later, index)), "from {now}");
        }
    }

    #[test]
    fn each_is_in_one_list_and_leaves_it_for_good() {
        let mut on = On::new(10, 4);
        for at in 10..400 {
            on.schedule(at, 1);
            on.schedule(410 - at, 2);
            on.schedule(20, 3);
        }
        on.0.remove(&mut on.1, 3);
        on.0.remove(&mut on.1, 3);
        on.0.turn(&mut on.1, 11);
        on.schedule(30, 2);
        assert_eq!(on.turn(11), [0; 0], "it was due, and is not any more");
        assert_eq!((on.turn(398), on.turn(399)), (vec![2], vec![1]));
        assert_eq!(on.0.heads[..], Wheel::new(0).heads[..]);
        assert!(on.1.iter().all(|link| *link == Link::default()));
    }
}
