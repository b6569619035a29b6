//! Differences between kernels: the features that are found, the alternatives to missing ones, and the verifier's work.
//! The results are written for scripts/test-kernels, one line each, to the file that NETMON_FOUND names.

// clippy.toml allows these only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod budget;
pub mod features;
mod flood;
mod stacked;

use std::fs::OpenOptions;
use std::io::Write;

/// The series, such as "5.10" of "5.10.0-32-cloud-amd64", within which the verifier changes little.
fn series() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

/// Writes a result: fields separated by tabs.
fn found(fields: &[&str]) {
    let line = fields.join("\t");
    eprintln!("found {line}");
    if let Some(path) = std::env::var_os("NETMON_FOUND") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        // A single write, so that lines stay complete.
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}
