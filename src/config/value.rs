//! Values as they are given, and how they are interpreted.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A value as it is given in a file, in the environment or on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// One value, or a list separated by commas.
    Text(String),
    /// A list of values.
    List(Vec<String>),
}

/// The longest duration: its nanoseconds can be added to any time without overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);
/// More than the memory of any host, in bytes.
const LARGEST: u64 = 1 << 60;

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Text(text) => f.write_str(text),
            Given::List(items) => write!(f, "[{}]", items.join(", ")),
        }
    }
}

impl Given {
    /// The single value, without surrounding space.
    ///
    /// # Errors
    ///
    /// It is a list.
    pub fn text(&self) -> Result<&str> {
        match self {
            Given::Text(text) => Ok(text.trim()),
            Given::List(_) => bail!("is a list, and must be one value"),
        }
    }

    /// All values. A text may have brackets around it, as lists are shown.
    pub fn list(&self) -> Vec<String> {
        match self {
            Given::Text(text) => {
                let text = text.trim();
                let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                match inner.filter(|inner| !inner.contains(['[', ']'])).map(str::trim) {
                    Some("") => Vec::new(),
                    inner => inner.unwrap_or(text).split(',').map(|item| unquoted(item.trim()).to_owned()).collect(),
                }
            }
            Given::List(items) => items.clone(),
        }
    }

    /// `None` if the value is the word that stands for no value.
    pub(super) fn unless(&self, word: &str) -> Option<&Given> {
        (!matches!(self, Given::Text(text) if text.trim() == word)).then_some(self)
    }

    /// Parses a switch: true, yes, on or 1; false, no, off or 0.
    ///
    /// # Errors
    ///
    /// It is none of these.
    pub fn switch(&self) -> Result<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => bail!("neither true nor false"),
        }
    }

    pub(super) fn number(&self, valid: RangeInclusive<u64>) -> Result<usize> {
        let number: u64 = self.text()?.parse().context("not a whole number")?;
        ensure!(valid.contains(&number), "out of range");
        Ok(usize::try_from(number)?)
    }

    /// Parses a number above 0 and at most 1.
    pub(super) fn share(&self) -> Result<f64> {
        let share: f64 = self.text()?.parse().context("not a number")?;
        ensure!(share > 0.0 && share <= 1.0, "out of range");
        Ok(share)
    }

    /// Parses a duration: `300s`, `5m`, `1h30m`.
    pub(super) fn duration(&self, least: Duration) -> Result<Duration> {
        let duration = humantime::parse_duration(self.text()?)?;
        ensure!(duration >= least, "too short");
        ensure!(duration <= LONGEST, "too long");
        Ok(duration)
    }

    /// Parses a size in bytes: `1Gi`, `512Mi`, `100M`, or a plain number.
    pub(super) fn bytes(&self) -> Result<u64> {
        let size: bytesize::ByteSize = self.text()?.parse().map_err(anyhow::Error::msg)?;
        ensure!(size.as_u64() <= LARGEST, "too much");
        Ok(size.as_u64())
    }

    /// Parses a number of CPUs, `2`, `0.5` or `500m`, into millicores.
    pub(super) fn milli_cpus(&self) -> Result<u32> {
        let text = self.text()?;
        let milli = match text.strip_suffix('m') {
            Some(milli) => f64::from(milli.parse::<u32>().context("not a number of thousandths")?),
            None => text.parse::<f64>().context("not a number of CPUs")? * 1000.0,
        };
        ensure!((1.0..=1e9).contains(&milli), "out of range");
        Ok(milli.round() as u32)
    }
}

/// Removes quotes, as items of lists have them in YAML and JSON.
fn unquoted(item: &str) -> &str {
    let within = |quote| item.strip_prefix(quote)?.strip_suffix(quote);
    within('"').or_else(|| within('\'')).unwrap_or(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Given {
        Given::Text(text.to_owned())
    }

    #[test]
    fn quantities_are_written_as_in_kubernetes() {
        for (text, bytes) in [("1Gi", 1 << 30), ("512Mi", 512 << 20), ("100M", 100_000_000), ("4096", 4096)] {
            assert_eq!(given(text).bytes().unwrap(), bytes, "{text}");
        }
        for (text, milli) in [("2", 2000), ("500m", 500), ("0.25", 250), ("1.5", 1500)] {
            assert_eq!(given(text).milli_cpus().unwrap(), milli, "{text}");
        }
        for bad in ["", "m", "-1", "0", "1x", "1.5m", "nan", "inf"] {
            assert!(given(bad).milli_cpus().is_err(), "{bad}");
        }
        assert!(given("1Zx").bytes().is_err() && given("-1Gi").bytes().is_err());
        assert!(given("2EiB").bytes().is_err() && given("99999999999999999999").bytes().is_err());
    }

    #[test]
    fn other_values() {
        assert_eq!(given("5m").duration(Duration::ZERO).unwrap(), Duration::from_secs(300));
        assert!(given("0s").duration(Duration::from_secs(1)).is_err());
        assert!(given("300").duration(Duration::ZERO).is_err(), "a number without a unit");
        assert!(given("100years").duration(Duration::ZERO).is_err(), "nanoseconds of it are too many");
        assert!(given("87600h").duration(Duration::ZERO).is_ok());
        assert_eq!(given("0.5").share().unwrap(), 0.5);
        assert!(["0", "1.01", "-1", "nan", "x"].iter().all(|text| given(text).share().is_err()));
        assert!(given("On").switch().unwrap() && !given("0").switch().unwrap());
        assert!(given("maybe").switch().is_err());
        for list in ["a, b", "[a, b]", "[\"a\", 'b']", " [ a,b ] "] {
            assert_eq!(given(list).list(), ["a", "b"], "{list}");
        }
        assert_eq!((given("[]").list(), given("").list()), (vec![], vec![String::new()]));
        assert_eq!(given("[ev]th[01]").list(), ["[ev]th[01]"], "a glob");
        assert!(Given::List(vec!["1".to_owned()]).number(0..=5).is_err());
    }
}
