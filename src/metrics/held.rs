//! What is counted of flows that are new, or whose ends may get names soon: it waits here until it is settled what it is to be counted
//! as, for it cannot leave a series once it is in one.

use crate::bpf::{Record, Sample, Tally};

/// Marks a tag as the number of a place here.
const HELD: u32 = 1 << 31;
/// Times that wait in one place; those beyond are counted at once.
const SAMPLES_MOST: usize = 32;

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
    places: Vec<Place>,
    free: Vec<u32>,
}

/// The tag names a place.
pub(super) fn is_held(tag: u32) -> bool {
    tag & HELD != 0
}

impl Held {
    /// A new place; its tag.
    pub(super) fn hold(&mut self) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() as u32 - 1
        });
        HELD | place
    }

    fn place(&mut self, tag: u32) -> Option<&mut Place> {
        self.places.get_mut((tag & !HELD) as usize)
    }

    /// What waits there; to be given back by [`Held::free`].
    pub(super) fn take(&mut self, tag: u32) -> Place {
        self.place(tag).map(std::mem::take).unwrap_or_default()
    }

    /// Nothing waits there any more. The room that its samples had is used again.
    pub(super) fn free(&mut self, tag: u32, place: Place) {
        if let Some(free) = self.place(tag) {
            *free = Place { samples: place.samples, ..Place::default() };
        }
        self.free.push(tag & !HELD);
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
        match self.place(tag) {
            Some(place) if place.samples.len() < SAMPLES_MOST => {
                place.samples.push(sample);
                true
            }
            _ => false,
        }
    }
}
