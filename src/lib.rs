//! netmon watches every packet of a host at the TC hook and turns packets into flows: who talks to whom, how much, and
//! what failed and why, for Prometheus.
//!
//! Modules import only from those that come before them in the order that CONTRIBUTING.md lists; [`agent`] and [`replay`] wire them.

// Failures are errors, not panics: no input may end the agent.
#![deny(clippy::panic, clippy::todo, clippy::unimplemented)]

pub mod agent;
pub mod bpf;
pub mod cli;
pub mod clients;
pub mod config;
pub mod control;
pub mod debug;
pub mod doctor;
pub mod filter;
pub mod flow;
pub mod http;
pub mod line;
mod lock;
pub mod logging;
pub mod names;
pub mod output;
pub mod pattern;
pub mod pipeline;
pub mod printable;
pub mod regular_file;
pub mod replay;
pub mod sinks;
pub mod threads;
