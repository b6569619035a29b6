//! A connection: what it is doing, and whether it has to make way.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A client that has connected this recently may be about to send its request.
pub const GREETING: Duration = Duration::from_millis(2);
/// A client that has read nothing of its answer for this long loses its place if another one needs it.
pub(super) const STALLED: Duration = Duration::from_millis(250);
/// So does one whose answer has taken this long, even if it goes on.
const LONG: Duration = Duration::from_secs(5);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// It is open, and nothing has come.
    Silent,
    /// A part of a request was read; the rest has not come.
    Asking,
    /// Its answer is with the kernel.
    Idle,
    /// Its answer is being written.
    Answering,
    /// Its answer is a stream; all of it so far is with the kernel, and the rest is not made yet.
    Streaming,
    /// Its answer is being made.
    Making,
    /// It was closed to make way for another one. This phase is final.
    Gone,
}

const PHASES: [Phase; 7] =
    [Phase::Silent, Phase::Asking, Phase::Idle, Phase::Answering, Phase::Streaming, Phase::Making, Phase::Gone];

/// What is known of a connection to decide whether it has to make way.
#[derive(Debug)]
pub struct Client {
    opened: Instant,
    phase: AtomicU8,
    /// When the phase began, and when anything moved, in nanoseconds since it was opened.
    since_ns: AtomicU64,
    moved_ns: AtomicU64,
}

impl Client {
    /// A connection that was opened at `now`.
    pub fn new(now: Instant) -> Client {
        Client {
            opened: now,
            phase: AtomicU8::new(Phase::Silent as u8),
            since_ns: AtomicU64::new(0),
            moved_ns: AtomicU64::new(0),
        }
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    /// Enters a phase. False: it is in that phase already, or is gone.
    pub fn enter(&self, phase: Phase, now: Instant) -> bool {
        let next = |before: u8| (before != phase as u8 && before != Phase::Gone as u8).then_some(phase as u8);
        let Ok(before) = self.phase.fetch_update(Relaxed, Relaxed, next) else { return false };
        // A stream is as old as its first byte, however often it has to wait for more.
        let streams = |phase: u8| phase == Phase::Answering as u8 || phase == Phase::Streaming as u8;
        if !(streams(before) && streams(phase as u8)) {
            self.since_ns.store(self.at(now), Relaxed);
        }
        self.moved(now);
        true
    }

    /// Records that it has sent or read something.
    pub fn moved(&self, now: Instant) {
        self.moved_ns.store(self.at(now), Relaxed);
    }

    /// It was closed to make way for another.
    pub fn has_made_way(&self) -> bool {
        self.phase() == Phase::Gone
    }

    /// Makes it go, unless it has left this phase meanwhile.
    pub(super) fn go(&self, phase: Phase) -> bool {
        self.phase.compare_exchange(phase as u8, Phase::Gone as u8, Relaxed, Relaxed).is_ok()
    }

    /// Makes it go, whatever it is doing. Returns what that was, or `None` if it has gone already.
    pub(super) fn leave(&self) -> Option<Phase> {
        let before = PHASES[usize::from(self.phase.swap(Phase::Gone as u8, Relaxed))];
        (before != Phase::Gone).then_some(before)
    }

    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.opened).as_nanos() as u64
    }

    /// How long it has been in its phase.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.ago(&self.since_ns, now)
    }

    fn ago(&self, at: &AtomicU64, now: Instant) -> Duration {
        Duration::from_nanos(self.at(now).saturating_sub(at.load(Relaxed)))
    }

    /// The connection with the greatest rank makes way first; one without a rank stays. Connections that have sent nothing for a while
    /// go before all others. Within a class, an address with many connections goes before one with few, and then the connection that
    /// has been in its phase for the longest time: otherwise a few of one kind could keep their places, and newcomers would compete for
    /// the rest.
    pub(super) fn rank(&self, now: Instant) -> Option<(u8, Duration)> {
        let (since, still) = (self.ago(&self.since_ns, now), self.ago(&self.moved_ns, now));
        match self.phase() {
            Phase::Silent if still >= STALLED => Some((2, still)),
            Phase::Silent if still >= GREETING => Some((1, still)),
            // The age of the request counts, so that a byte now and then does not keep the place.
            Phase::Asking => Some((1, since)),
            Phase::Idle => Some((1, still)),
            Phase::Answering if still >= STALLED => Some((1, still)),
            // A stream that waits for what is to come is no client's fault.
            Phase::Answering | Phase::Streaming | Phase::Making if since >= LONG => Some((0, since)),
            Phase::Silent | Phase::Answering | Phase::Streaming | Phase::Making | Phase::Gone => None,
        }
    }
}
