//! What netmon measures and recognises in connections besides counting packets: times and protocols.

use anyhow::{Result, bail, ensure};

use crate::bpf::{App, TimestampSource};

/// What netmon measures and recognises in connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// How often round trips are measured; `None` if no times are measured.
    pub latency: Option<Precision>,
    /// Bucket bounds of the latency histograms.
    pub buckets: Buckets,
    /// The source of precise timestamps.
    pub timestamps: TimestampSource,
    /// Application protocols to recognise.
    pub apps: Vec<App>,
    /// True if packets in tunnels are flows of their own.
    pub decapsulation: bool,
}

impl Default for Features {
    fn default() -> Features {
        Features {
            latency: Some(Precision::Normal),
            buckets: Buckets::default(),
            timestamps: TimestampSource::Kernel,
            apps: App::all(),
            decapsulation: true,
        }
    }
}

/// How often the round trips of a connection are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// About once a second in each direction.
    #[default]
    Normal,
    /// A segment is measured as soon as the one measured before it is acknowledged.
    High,
}

/// Upper bounds of a latency histogram's buckets in nanoseconds, ascending. One more bucket holds the values above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets(Vec<u64>);

/// With more buckets, a histogram would take more memory than everything else that is known about a pair.
const BUCKETS_MOST: usize = 64;

impl Default for Buckets {
    /// 0.1 ms to 1 s.
    fn default() -> Buckets {
        Buckets([100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000].map(|us| us * 1000).to_vec())
    }
}

impl Buckets {
    /// Parses bounds in milliseconds: `0.1`, `0.5`, `1`.
    ///
    /// # Errors
    ///
    /// A bound is not a valid number, the bounds do not ascend, or there are none or too many.
    pub fn new(milliseconds: &[impl AsRef<str>]) -> Result<Buckets> {
        let bounds = milliseconds.iter().map(|text| bound(text.as_ref().trim())).collect::<Result<Vec<u64>>>()?;
        ensure!(bounds.is_sorted_by(|a, b| a < b), "each must be greater than the one before");
        ensure!((1..=BUCKETS_MOST).contains(&bounds.len()), "{} bounds", bounds.len());
        Ok(Buckets(bounds))
    }

    /// The bounds in nanoseconds.
    pub fn bounds_ns(&self) -> &[u64] {
        &self.0
    }

    /// The bounds in milliseconds, as in the configuration.
    pub fn milliseconds(&self) -> Vec<String> {
        self.0.iter().map(|&ns| (ns as f64 / 1e6).to_string()).collect()
    }
}

fn bound(text: &str) -> Result<u64> {
    match text.parse::<f64>() {
        // From a nanosecond to an hour.
        Ok(ms) if (0.000_001..=3_600_000.0).contains(&ms) => Ok((ms * 1e6).round() as u64),
        _ => bail!("{text:?} is not a valid number of milliseconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend() {
        let of = |text: &str| Buckets::new(&text.split(',').collect::<Vec<_>>());
        assert_eq!(of("0.1,0.5,1,5,10,50,100,500,1000").unwrap(), Buckets::default());
        assert_eq!(of("0.25, 3,1e3").unwrap().bounds_ns(), [250_000, 3_000_000, 1_000_000_000]);
        for bad in ["", "1,,2", "nan", "inf", "-1", "0", "1,1", "1,5,2", "4000000"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let many = |count: u32| Buckets::new(&(1..=count).map(|n| n.to_string()).collect::<Vec<_>>());
        assert!(many(64).is_ok() && many(65).is_err() && many(0).is_err());
    }
}
