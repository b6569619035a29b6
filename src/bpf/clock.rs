//! Jiffies as nanoseconds. The packet path stamps with jiffies because they cost nothing; the kernel derives them from
//! CLOCK_MONOTONIC, so one offset and the tick's length translate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_getres, clock_gettime};

/// Translates jiffies into CLOCK_MONOTONIC.
#[derive(Debug)]
pub struct Clock {
    tick_ns: u64,
    /// CLOCK_MONOTONIC at jiffy 0, wrapping: jiffies start five minutes below the wrap of 32 bits.
    origin_ns: AtomicU64,
    /// Time of the capture.
    capture_ns: AtomicU64,
}

impl Clock {
    /// The tick is the resolution of the coarse clocks; `CONFIG_HZ` itself is not always readable.
    pub(super) fn new() -> Result<Clock> {
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).context("read the length of a jiffy")?;
        Ok(Clock {
            tick_ns: Duration::from(tick).as_nanos() as u64,
            origin_ns: AtomicU64::new(u64::MAX),
            capture_ns: AtomicU64::new(0),
        })
    }

    /// It is `now_ns` in the capture whose packets are injected.
    pub fn advance(&self, now_ns: u64) {
        self.capture_ns.fetch_max(now_ns, Ordering::Relaxed);
    }

    /// Both clocks read at the same moment by a program. A jiffy starts before the moment it is read: the earliest origin
    /// of all readings is the true one.
    pub(super) fn observe(&self, jiffies: u64, monotonic_ns: u64) {
        let origin = monotonic_ns.wrapping_sub(jiffies.wrapping_mul(self.tick_ns));
        let _ = self.origin_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let earlier = old == u64::MAX || (origin.wrapping_sub(old) as i64) < 0;
            earlier.then_some(origin)
        });
    }

    pub(super) fn monotonic_ns(&self, jiffies: u64) -> u64 {
        jiffies.wrapping_mul(self.tick_ns).wrapping_add(self.origin_ns.load(Ordering::Relaxed))
    }

    /// Jiffies in a duration, at least one.
    pub(super) fn jiffies(&self, duration: Duration) -> u64 {
        (duration.as_nanos() as u64).div_ceil(self.tick_ns).max(1)
    }

    /// CLOCK_MONOTONIC now, in nanoseconds.
    pub fn now_ns() -> u64 {
        // The clock exists on every kernel that runs the programs.
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| Duration::from(t).as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_become_nanoseconds() {
        let clock = Clock { tick_ns: 4_000_000, origin_ns: AtomicU64::new(u64::MAX), capture_ns: AtomicU64::new(0) };
        let boot = 4_294_892_296; // INITIAL_JIFFIES
        clock.observe(boot + 250, 1_003_000_000);
        clock.observe(boot + 500, 2_001_000_000); // read nearer to the start of its jiffy
        clock.observe(boot + 750, 3_003_900_000);
        assert_eq!(clock.monotonic_ns(boot + 500), 2_001_000_000);
        assert_eq!(clock.monotonic_ns(boot + 1000), 4_001_000_000);
        assert_eq!(clock.jiffies(Duration::from_millis(9)), 3);
        assert_eq!(clock.jiffies(Duration::ZERO), 1);
    }
}
