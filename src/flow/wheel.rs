//! When to look at a flow again. A packet does not move its flow on the wheel: when its time comes, the table sees how long
//! it really was silent and puts it back for the rest. So a record costs nothing here, and expiry costs by flows, not by
//! packets.

/// A hashed timing wheel of one-second slots.
pub(super) struct Wheel {
    slots: Vec<Vec<Entry>>,
    /// The second that is next to be turned.
    now: u64,
}

/// A flow and the generation it had.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Longer waits come around and are put back.
const SLOTS: u64 = 512;

impl Wheel {
    pub(super) fn new(now: u64) -> Wheel {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), now }
    }

    /// Look at `entry` in the second `at`, or earlier if that is too far off.
    pub(super) fn schedule(&mut self, at: u64, entry: Entry) {
        let at = at.clamp(self.now, self.now + SLOTS - 1);
        self.slots[(at % SLOTS) as usize].push(entry);
    }

    /// What is due up to the second `to`.
    pub(super) fn turn(&mut self, to: u64) -> Vec<Entry> {
        let mut due = Vec::new();
        // After a pause of a whole turn every slot is due once.
        let end = to.min(self.now + SLOTS - 1);
        while self.now <= end {
            due.append(&mut self.slots[(self.now % SLOTS) as usize]);
            self.now += 1;
        }
        self.now = self.now.max(to + 1);
        due
    }

    /// Takes the entry that is due first, with the second it is due in.
    pub(super) fn pop(&mut self) -> Option<(u64, Entry)> {
        (self.now..self.now + SLOTS).find_map(|s| Some((s, self.slots[(s % SLOTS) as usize].pop()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(entries: Vec<Entry>) -> Vec<u32> {
        entries.into_iter().map(|e| e.index).collect()
    }

    #[test]
    fn entries_come_when_due() {
        let mut wheel = Wheel::new(100);
        for (at, index) in [(100, 0), (103, 3), (101, 1), (100 + 2 * SLOTS, 9)] {
            wheel.schedule(at, Entry { index, generation: 0 });
        }
        assert_eq!(indices(wheel.turn(101)), [0, 1]);
        assert_eq!(indices(wheel.turn(102)), [0; 0]);
        assert_eq!(indices(wheel.turn(110)), [3]);
        assert_eq!(indices(wheel.turn(100 + SLOTS)), [9], "as late as the wheel can tell");
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let mut wheel = Wheel::new(0);
        for index in 0..1000 {
            wheel.schedule(index.into(), Entry { index, generation: 0 });
        }
        assert_eq!(wheel.turn(1_000_000).len(), 1000);
        wheel.schedule(1_000_005, Entry { index: 7, generation: 0 });
        assert_eq!(indices(wheel.turn(1_000_005)), [7]);
    }

    #[test]
    fn pop_takes_the_earliest() {
        let mut wheel = Wheel::new(10);
        wheel.schedule(300, Entry { index: 2, generation: 0 });
        wheel.schedule(20, Entry { index: 1, generation: 0 });
        assert_eq!(wheel.pop().map(|(at, e)| (at, e.index)), Some((20, 1)));
        assert_eq!(wheel.pop().map(|(at, e)| (at, e.index)), Some((300, 2)));
        assert!(wheel.pop().is_none());
    }
}
