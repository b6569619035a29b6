//! The agent on real interfaces, with namespaces as hosts and traffic from real sockets. Its results are compared with
//! what the sockets report as sent and with the interfaces' own counters, which are independent of netmon.

// clippy.toml allows these only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod agent;
pub mod apps;
pub mod binary;
mod bundle;
mod churn;
mod claim;
mod clients;
mod clock;
mod conservation;
pub mod control;
mod debug;
mod delays;
mod detection;
mod direction;
mod discovery;
mod ended;
mod exact;
mod files;
mod flood;
pub mod foreign;
mod framing;
mod full;
mod held;
pub mod hooks;
mod keys;
mod kill;
mod limits;
mod link_log;
mod many;
pub mod metrics;
mod moments;
mod named;
pub mod nat;
mod offloads;
mod outcomes;
mod packet_trace;
mod pods;
pub mod prometheus;
mod readers;
mod refusals;
mod reload;
mod requests;
mod routed;
mod secured;
mod states;
mod stop;
mod table;
mod top;
pub mod traffic;
mod tunnels;
mod verdicts;
mod version;
mod wrong;

pub use crate::support::{PATIENCE, eventually, net};
