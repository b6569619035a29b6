//! Inputs that netmon once judged wrongly, each with the correct result and the reason. There is one file for each
//! kind; `inputs` has the captures, which were made for these tests.

// clippy.toml allows these only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use serde_json::Value;

use crate::replay;

mod apps;
mod copies;
mod datagrams;
mod lifetimes;
mod moments;
mod outcomes;
mod places;
mod races;
mod roles;
mod sizes;
mod talks;

/// The flows of one of the inputs.
fn flows(input: &str) -> Vec<Value> {
    replay::replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/inputs").join(input))
}
