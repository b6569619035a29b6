//! Converts ticks to nanoseconds. The packet path stamps with jiffies because they cost next to nothing. The kernel derives them
//! from CLOCK_MONOTONIC, so an offset and the length of a tick are enough to convert them. In replayed captures a tick is a
//! nanosecond of the capture's clock.
//!
//! CLOCK_MONOTONIC here is that of the kernel, which programs read; that of a process in a time namespace may differ.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_getres, clock_gettime};

use super::timens;

/// Converts ticks to CLOCK_MONOTONIC, or to the time of a capture.
#[derive(Debug)]
pub struct Clock {
    tick_ns: u64,
    /// CLOCK_MONOTONIC at tick 0, wrapping: jiffies start five minutes below the wrap of 32 bits.
    origin_ns: AtomicU64,
    /// The current time in ticks, or that of a moment ago.
    latest: AtomicU64,
    capture: bool,
}

/// Records may be up to this many ticks ahead of the latest known time.
const AHEAD: u64 = 1 << 24;

impl Clock {
    /// The length of a kernel tick: the resolution of its coarse clocks. `CONFIG_HZ` itself is not always readable.
    ///
    /// # Errors
    ///
    /// The kernel has no coarse clock.
    pub fn kernel_tick() -> Result<Duration> {
        Ok(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).context("read the length of a jiffy")?.into())
    }

    pub(super) fn of_kernel() -> Result<Clock> {
        let tick_ns = Clock::kernel_tick()?.as_nanos() as u64;
        Ok(Clock { tick_ns, origin_ns: AtomicU64::new(u64::MAX), latest: AtomicU64::new(0), capture: false })
    }

    /// A clock for a capture, which [`Clock::advance`] moves forward.
    pub(super) fn of_capture() -> Clock {
        Clock { tick_ns: 1, origin_ns: AtomicU64::new(0), latest: AtomicU64::new(0), capture: true }
    }

    /// Takes in a reading of both clocks that a program made at the same moment. A jiffy starts before the moment it is read, so the
    /// earliest origin of all readings is the true one.
    pub(super) fn observe(&self, jiffies: u64, monotonic_ns: u64) {
        if self.capture {
            return;
        }
        let origin = monotonic_ns.wrapping_sub(jiffies.wrapping_mul(self.tick_ns));
        let _ = self.origin_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let earlier = old == u64::MAX || (origin.wrapping_sub(old) as i64) < 0;
            earlier.then_some(origin)
        });
    }

    /// Moves the time of a capture forward to `ns`, in nanoseconds; it never goes back.
    pub fn advance(&self, ns: u64) {
        self.latest.fetch_max(ns, Ordering::Relaxed);
    }

    /// Updates the latest time; to be called before current records are converted.
    pub(super) fn refresh(&self) {
        if !self.capture {
            let since = Clock::now_ns().wrapping_sub(self.origin_ns.load(Ordering::Relaxed));
            self.latest.store(since / self.tick_ns, Ordering::Relaxed);
        }
    }

    /// The latest known time in ticks.
    pub(super) fn latest(&self) -> u64 {
        self.latest.load(Ordering::Relaxed)
    }

    /// Nanoseconds from the lower half of a time in ticks, which must not be far ahead of the latest time, nor 2^32 ticks behind it.
    pub(super) fn nanoseconds(&self, low: u32) -> u64 {
        let ahead = self.latest().wrapping_add(AHEAD);
        let ticks = ahead.wrapping_sub(u64::from((ahead as u32).wrapping_sub(low)));
        ticks.wrapping_mul(self.tick_ns).wrapping_add(self.origin_ns.load(Ordering::Relaxed))
    }

    /// Length of a tick in nanoseconds.
    pub(super) fn tick_ns(&self) -> u64 {
        self.tick_ns
    }

    /// Number of ticks in a duration, rounded up, at least one.
    pub(super) fn ticks(&self, duration: Duration) -> u64 {
        (duration.as_nanos() as u64).div_ceil(self.tick_ns).max(1)
    }

    /// The kernel's CLOCK_MONOTONIC now, in nanoseconds.
    pub fn now_ns() -> u64 {
        // If it cannot be determined, the agent does not start.
        static AHEAD_NS: LazyLock<i64> = LazyLock::new(|| timens::offset_ns().unwrap_or_default());
        // The clock exists on every kernel that runs the programs.
        let own = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| Duration::from(t).as_nanos() as u64);
        own.saturating_add_signed(-*AHEAD_NS)
    }

    /// What to add at present to CLOCK_MONOTONIC to get the time since 1970, in nanoseconds.
    pub fn offset_to_1970() -> i64 {
        let reading = |_| {
            let before = Clock::now_ns();
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
            let took = Clock::now_ns() - before;
            (took, since_1970.wrapping_sub(before + took / 2) as i64)
        };
        // An interruption falsifies a reading by its duration, so the shortest reading counts.
        (0..5).map(reading).min().map_or(0, |(_, offset)| offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        let clock = Clock {
            tick_ns: 4_000_000,
            origin_ns: AtomicU64::new(u64::MAX),
            latest: AtomicU64::new(0),
            capture: false,
        };
        let boot = 4_294_892_296; // INITIAL_JIFFIES
        clock.observe(boot + 250, 1_003_000_000);
        clock.observe(boot + 500, 2_001_000_000); // read nearer to the start of its jiffy
        clock.observe(boot + 750, 3_003_900_000);
        for (latest, ticks, ns) in [
            (boot + 500, boot + 500, 2_001_000_000),
            (boot + 500, boot + 1000, 4_001_000_000),
            (boot + 500, boot, 1_000_000),
            // The lower half wraps 300 seconds after boot.
            (boot + 80_000, boot + 70_000, 280_001_000_000),
            (boot + 80_000, boot + 79_000, 316_001_000_000),
        ] {
            clock.latest.store(latest, Ordering::Relaxed);
            assert_eq!(clock.nanoseconds(ticks as u32), ns);
        }
        assert_eq!(clock.ticks(Duration::from_millis(9)), 3);
        assert_eq!(clock.ticks(Duration::ZERO), 1);
    }

    #[test]
    fn a_capture_has_its_own_time() {
        let clock = Clock::of_capture();
        let now = 1_700_000_000_123_456_789;
        clock.advance(now);
        clock.advance(now - 5);
        for ns in [now, now - 4_000_000_000, now + 10_000_000] {
            assert_eq!(clock.nanoseconds(ns as u32), ns);
        }
    }
}
