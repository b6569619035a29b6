//! What differs between kernels: the features that are found, what is done without them, and the verifier's work. What these
//! tests find is written down for scripts/test-kernels, a line each, in the file that NETMON_FOUND names.

// clippy.toml allows these in functions marked as tests only.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod budget;
pub mod features;
mod flood;
mod stacked;

use std::fs::OpenOptions;
use std::io::Write;

/// "5.10" of "5.10.0-32-cloud-amd64": within it a verifier changes little.
fn series() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

/// Tells what was found: fields with tabs between.
fn found(fields: &[&str]) {
    let line = fields.join("\t");
    eprintln!("found {line}");
    if let Some(path) = std::env::var_os("NETMON_FOUND") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        // One write, so that lines stay whole.
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}
