//! netmon watches every packet of a host at the TC hook and turns packets into flows: who talks to whom, how much, and
//! what failed and why, for Prometheus.
//!
//! The modules are in the order in which a packet's story travels. A stage never uses the one after it; [`agent`] and [`replay`]
//! wire them.

// What cannot go on is an error: no input ends the agent.
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
mod lock;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod output;
pub mod pattern;
pub mod pipeline;
pub mod printable;
pub mod regular_file;
pub mod replay;
pub mod sinks;
pub mod threads;
