//! Tests that need more than one module, or the kernel.

// The lints exempt only test functions, not the functions that tests call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod control;
mod deploy;
mod docs;
mod doctor;
mod e2e;
mod fuzz;
mod http;
mod injected;
mod kernels;
mod live;
mod load;
mod names;
mod replay;
mod support;
