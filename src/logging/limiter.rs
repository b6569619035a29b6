//! How often each line of the source may log. Pure.

use std::collections::HashMap;
use std::time::Duration;

/// Lines at once.
const BURST: f64 = 200.0;
/// Lines in a second, in the long run.
const RATE: f64 = 2.0;

/// A line of the source: as many as there are calls that log.
pub(super) type Place = (&'static str, u32);

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written.
    Pass {
        /// Messages of the same place that were not, since the last one that was.
        held_back: u64,
    },
    /// It is not.
    HoldBack,
}

struct Bucket {
    left: f64,
    at: Duration,
    held_back: u64,
}

/// All places that have logged.
#[derive(Default)]
pub(super) struct Limiter(HashMap<Place, Bucket>);

impl Limiter {
    /// A message of `place` came, so long after the start.
    pub(super) fn judge(&mut self, place: Place, now: Duration) -> Verdict {
        let bucket = self.0.entry(place).or_insert(Bucket { left: BURST, at: now, held_back: 0 });
        let earned = now.saturating_sub(bucket.at).as_secs_f64() * RATE;
        bucket.left = (bucket.left + earned).min(BURST);
        bucket.at = bucket.at.max(now);
        if bucket.left < 1.0 {
            bucket.held_back += 1;
            return Verdict::HoldBack;
        }
        bucket.left -= 1.0;
        Verdict::Pass { held_back: std::mem::take(&mut bucket.held_back) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut limiter = Limiter::default();
        let mut passed = 0;
        // Ten minutes of a thousand a second.
        for n in 0..600_000 {
            passed += u64::from(limiter.judge(("a", 1), Duration::from_millis(n)) != Verdict::HoldBack);
        }
        assert!((1390..=1401).contains(&passed), "{passed}");
        assert_eq!(limiter.judge(("a", 2), Duration::ZERO), Verdict::Pass { held_back: 0 }, "others are not touched");
        let later = Duration::from_secs(3600);
        let Verdict::Pass { held_back } = limiter.judge(("a", 1), later) else { panic!("held back after an hour") };
        assert!(held_back > 0);
        assert_eq!(limiter.judge(("a", 1), later), Verdict::Pass { held_back: 0 }, "told once");
        // All that was lost is told of.
        let mut limiter = Limiter::default();
        let verdicts = (0..1000).map(|n| limiter.judge(("a", 1), Duration::from_secs(n / 100)));
        let held: Vec<Verdict> = verdicts.collect();
        let lost = held.iter().filter(|verdict| **verdict == Verdict::HoldBack).count() as u64;
        let told = |verdict: &Verdict| if let Verdict::Pass { held_back } = verdict { *held_back } else { 0 };
        let Verdict::Pass { held_back } = limiter.judge(("a", 1), later) else { panic!("held back after an hour") };
        assert_eq!(held.iter().map(told).sum::<u64>() + held_back, lost);
    }
}
