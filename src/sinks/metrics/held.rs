//! Counts of flows that are new, or whose ends may get names soon. They wait until it is settled what they count as, because they cannot
//! leave a series once they are in it.
//!
//! The packets of a direction that has waited since its first packet are in the flow itself. Room here is needed only for what the flow
//! does not add up, and for what waits again later.

use crate::bpf::{Facts, Record, Sample, Tally};
use crate::flow::{Flow, Slab};

/// Most times that wait in one place. More are counted at once.
const SAMPLES_MOST: usize = 32;
/// Most times that wait in all places together.
const ALL_SAMPLES_MOST: usize = 1 << 18;

/// Where a direction of a flow is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountedAt {
    /// Nothing was sent yet.
    Nowhere,
    /// All packets that the flow has of this direction wait, and nothing else does.
    Waiting,
    /// Something waits in the place with this number in [`Held`].
    Held(u32),
    /// It is counted in the series with this number.
    Series(u32),
}

/// Where both directions of a flow are counted, in the order of its key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark([u32; 2]);

/// One bit more than the numbers of places and series have.
const HELD: u32 = 1 << 31;
/// The flow's outcome waits with this direction.
const ENDED: u32 = 1 << 30;
const NUMBER: u32 = (1 << SPARE_SHIFT) - 1;
/// Three bits of each that no number needs: there are at most 100 million flows.
const SPARE_SHIFT: u32 = 27;
const SPARE: u32 = 7 << SPARE_SHIFT;

impl Mark {
    /// Six bits that are not used here: another byte beside each flow would take eight.
    pub(in crate::sinks) fn spare(self) -> u8 {
        let [low, high] = self.0.map(|place| (place & SPARE) >> SPARE_SHIFT);
        (low | high << 3) as u8
    }

    /// Sets them.
    pub(in crate::sinks) fn set_spare(&mut self, bits: u8) {
        for (place, bits) in self.0.iter_mut().zip([bits & 7, bits >> 3 & 7]) {
            *place = *place & !SPARE | u32::from(bits) << SPARE_SHIFT;
        }
    }

    pub(super) fn of(&self, sender: usize) -> CountedAt {
        match (self.0[sender] & HELD != 0, self.0[sender] & NUMBER) {
            (false, 0) => CountedAt::Nowhere,
            (false, number) => CountedAt::Series(number - 1),
            (true, 0) => CountedAt::Waiting,
            (true, number) => CountedAt::Held(number - 1),
        }
    }

    pub(super) fn set(&mut self, sender: usize, place: CountedAt) {
        let ended = self.0[sender] & ENDED;
        let spare = self.0[sender] & SPARE;
        self.0[sender] = spare
            | match place {
                CountedAt::Nowhere => 0,
                CountedAt::Series(number) => number + 1,
                CountedAt::Waiting => HELD | ended,
                CountedAt::Held(number) => HELD | ended | (number + 1),
            };
    }

    pub(super) fn is_held(&self, sender: usize) -> bool {
        self.0[sender] & HELD != 0
    }

    /// The outcome waits with the first direction that does; false if none does.
    pub(super) fn hold_outcome(&mut self) -> bool {
        let held = self.0.iter_mut().find(|place| **place & HELD != 0);
        held.map(|place| *place |= ENDED).is_some()
    }

    pub(super) fn holds_outcome(&self, sender: usize) -> bool {
        self.0[sender] & ENDED != 0
    }
}

/// What waits of one direction of a flow.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The packets that wait; `None`: all that the flow has.
    tally: Option<Tally>,
    pub(super) samples: Vec<Sample>,
    pub(super) retransmits: u64,
    pub(super) resets: u64,
}

impl Waiting {
    /// Packets that wait.
    pub(super) fn tally(&self, flow: &Flow, sender: usize) -> Tally {
        let sent = &flow.sent[sender];
        self.tally.unwrap_or(Tally { packets: sent.packets, bytes: sent.bytes })
    }
}

/// All that waits and is not in flows. The size of the flow table bounds how much that is.
#[derive(Debug, Default)]
pub(super) struct Held {
    places: Slab<Waiting>,
    samples: usize,
}

impl Held {
    /// A place for a direction that was counted before, and waits from now on.
    pub(super) fn again(&mut self) -> CountedAt {
        CountedAt::Held(self.places.insert(Waiting { tally: Some(Tally::default()), ..Waiting::default() }))
    }

    /// The direction's place, made if it has none yet; `None` if it does not wait.
    fn room(&mut self, mark: &mut Mark, sender: usize) -> Option<&mut Waiting> {
        let number = match mark.of(sender) {
            CountedAt::Held(number) => number,
            CountedAt::Waiting => {
                let number = self.places.insert(Waiting::default());
                mark.set(sender, CountedAt::Held(number));
                number
            }
            CountedAt::Nowhere | CountedAt::Series(_) => return None,
        };
        self.places.get_mut(number)
    }

    /// Removes and returns what waits there.
    pub(super) fn take(&mut self, place: CountedAt) -> Waiting {
        let CountedAt::Held(number) = place else { return Waiting::default() };
        let waiting = self.places.remove(number).unwrap_or_default();
        self.samples -= waiting.samples.len();
        waiting
    }

    /// Makes the packets of a record wait, which the flow has added up too.
    pub(super) fn add(&mut self, mark: &mut Mark, sender: usize, record: &Record) {
        let facts = record.facts.as_ref().filter(|facts: &&Facts| facts.retransmits > 0 || facts.resets > 0);
        if mark.of(sender) == CountedAt::Waiting && facts.is_none() {
            return;
        }
        let Some(place) = self.room(mark, sender) else { return };
        if let Some(tally) = &mut place.tally {
            *tally += Tally { packets: record.packets, bytes: record.bytes };
        }
        if let Some(facts) = facts {
            place.retransmits += u64::from(facts.retransmits);
            place.resets += u64::from(facts.resets);
        }
    }

    /// Makes a sample wait. False if there is no room, or the direction does not wait.
    pub(super) fn measured(&mut self, mark: &mut Mark, sender: usize, sample: Sample) -> bool {
        let room = self.samples < ALL_SAMPLES_MOST;
        match self.room(mark, sender) {
            Some(place) if room && place.samples.len() < SAMPLES_MOST => {
                place.samples.push(sample);
                self.samples += 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_bits_and_places_do_not_disturb_each_other() {
        let places = [CountedAt::Nowhere, CountedAt::Waiting, CountedAt::Held(NUMBER - 1), CountedAt::Series(0)];
        for bits in 0..64 {
            let mut mark = Mark::default();
            mark.set_spare(bits);
            for place in places {
                mark.set(0, place);
                mark.set(1, place);
                mark.hold_outcome();
                assert_eq!((mark.of(0), mark.of(1), mark.spare()), (place, place, bits));
                mark.set_spare(63 - bits);
                assert_eq!((mark.of(0), mark.of(1), mark.spare()), (place, place, 63 - bits));
                mark.set_spare(bits);
            }
        }
    }
}
