//! Limits how often each line of the source may log. Pure.

use std::collections::HashMap;
use std::time::Duration;

/// Messages that a line may log at once.
const BURST: f64 = 200.0;
/// Messages per second in the long run.
const RATE: f64 = 2.0;

/// File and line of a call that logs.
pub(super) type CallSite = (&'static str, u32);

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it.
    Pass {
        /// Messages of the same call that were held back since the last one that was written.
        held_back: u64,
    },
    /// Hold it back.
    HoldBack,
}

struct Bucket {
    left: f64,
    at: Duration,
    held_back: u64,
}

/// The state of all calls that have logged.
#[derive(Default)]
pub(super) struct Limiter(HashMap<CallSite, Bucket>);

impl Limiter {
    /// Judges a message of the call at `site`, at the time `now` since the start.
    pub(super) fn judge(&mut self, site: CallSite, now: Duration) -> Verdict {
        let bucket = self.0.entry(site).or_insert(Bucket { left: BURST, at: now, held_back: 0 });
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
        // Ten minutes with a thousand messages a second.
        for n in 0..600_000 {
            passed += u64::from(limiter.judge(("a", 1), Duration::from_millis(n)) != Verdict::HoldBack);
        }
        assert!((1390..=1401).contains(&passed), "{passed}");
        assert_eq!(
            limiter.judge(("a", 2), Duration::ZERO),
            Verdict::Pass { held_back: 0 },
            "other calls are not affected"
        );
        let later = Duration::from_secs(3600);
        let Verdict::Pass { held_back } = limiter.judge(("a", 1), later) else { panic!("held back after an hour") };
        assert!(held_back > 0);
        assert_eq!(limiter.judge(("a", 1), later), Verdict::Pass { held_back: 0 }, "reported once");
        // All messages that were held back are reported.
        let mut limiter = Limiter::default();
        let verdicts = (0..1000).map(|n| limiter.judge(("a", 1), Duration::from_secs(n / 100)));
        let held: Vec<Verdict> = verdicts.collect();
        let lost = held.iter().filter(|verdict| **verdict == Verdict::HoldBack).count() as u64;
        let reported = |verdict: &Verdict| if let Verdict::Pass { held_back } = verdict { *held_back } else { 0 };
        let Verdict::Pass { held_back } = limiter.judge(("a", 1), later) else { panic!("held back after an hour") };
        assert_eq!(held.iter().map(reported).sum::<u64>() + held_back, lost);
    }
}
