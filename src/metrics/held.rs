//! What is counted of flows that are new, or whose ends may get names soon: it waits here until it is settled what it is to be counted
//! as, for it cannot leave a series once it is in one.

use crate::bpf::{Record, Sample, Tally};
use crate::flow::Slab;

/// Marks a tag as the number of a place here.
const HELD: u32 = 1 << 31;
/// Times that wait in one place; those beyond are counted at once.
const SAMPLES_MOST: usize = 32;
/// Times that wait in all of them.
const ALL_SAMPLES_MOST: usize = 1 << 18;

/// One direction of a flow.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) tally: Tally,
    pub(super) samples: Vec<Sample>,
    pub(super) retransmits: u64,
    pub(super) resets: u64,
    /// The flow's outcome waits too.
    pub(super) ended: bool,
}

/// All that waits. The table of flows bounds how many do.
#[derive(Debug, Default)]
pub(super) struct Held {
    places: Slab<Place>,
    samples: usize,
}

/// The tag names a place.
pub(super) fn is_held(tag: u32) -> bool {
    tag & HELD != 0
}

impl Held {
    /// A new place; its tag.
    pub(super) fn hold(&mut self) -> u32 {
        HELD | self.places.insert(Place::default())
    }

    fn place(&mut self, tag: u32) -> Option<&mut Place> {
        self.places.get_mut(tag & !HELD)
    }

    /// What waits there: nothing does any more.
    pub(super) fn take(&mut self, tag: u32) -> Place {
        let place = self.places.remove(tag & !HELD).unwrap_or_default();
        self.samples -= place.samples.len();
        place
    }

    pub(super) fn ended(&mut self, tag: u32) {
        if let Some(place) = self.place(tag) {
            place.ended = true;
        }
    }

    pub(super) fn add(&mut self, tag: u32, record: &Record) {
        let Some(place) = self.place(tag) else { return };
        place.tally += Tally { packets: record.packets, bytes: record.bytes };
        if let Some(facts) = &record.facts {
            place.retransmits += u64::from(facts.retransmits);
            place.resets += u64::from(facts.resets);
        }
    }

    /// False: there is no room.
    pub(super) fn measured(&mut self, tag: u32, sample: Sample) -> bool {
        let room = self.samples < ALL_SAMPLES_MOST;
        match self.place(tag) {
            Some(place) if room && place.samples.len() < SAMPLES_MOST => {
                place.samples.push(sample);
                self.samples += 1;
                true
            }
            _ => false,
        }
    }
}
