//! The time namespace: it may shift the clocks of the process against those of the kernel, which the programs read.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

const OFFSETS: &str = "/proc/self/timens_offsets";

/// Nanoseconds by which this process's CLOCK_MONOTONIC is ahead of the kernel's.
pub(super) fn offset_ns() -> Result<i64> {
    let of = |which: &str| match fs::read_link(format!("/proc/self/ns/{which}")) {
        Ok(namespace) => Ok(Some(namespace)),
        // A kernel without time namespaces (CONFIG_TIME_NS, Linux 5.6).
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read /proc/self/ns/{which}")),
    };
    offset(of("time")?, of("time_for_children")?, || fs::read_to_string(OFFSETS))
}

/// The kernel shows only the offsets of the namespace that the children of the process will be in.
fn offset(
    own: Option<PathBuf>,
    of_children: Option<PathBuf>,
    offsets: impl FnOnce() -> std::io::Result<String>,
) -> Result<i64> {
    if own.is_none() {
        return Ok(0);
    }
    if own != of_children {
        bail!(
            "this process is in another time namespace than its children would be, so the kernel does not show how its clock differs: \
             start netmon inside the namespace (unshare --time --fork)"
        );
    }
    let text = offsets().with_context(|| format!("read {OFFSETS}"))?;
    parse(&text).with_context(|| format!("{OFFSETS} has no offset of the monotonic clock: {text:?}"))
}

fn parse(text: &str) -> Option<i64> {
    let mut words = text.lines().find_map(|line| line.strip_prefix("monotonic"))?.split_whitespace();
    let (seconds, nanoseconds): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_or_refused() {
        let text = || Ok("monotonic     -864000         5\nboottime       86400         0\n".to_owned());
        let ns = |number: &str| Some(PathBuf::from(format!("time:[{number}]")));
        assert_eq!(offset(ns("1"), ns("1"), text).unwrap(), -864_000 * 1_000_000_000 + 5);
        assert_eq!(offset(None, None, || unreachable!()).unwrap(), 0);
        let error = offset(ns("1"), ns("2"), text).unwrap_err().to_string();
        assert!(error.contains("another time namespace") && error.contains("--fork"), "{error}");
        assert!(offset(ns("1"), ns("1"), || Ok("boottime 1 2\n".to_owned())).is_err());
    }
}
