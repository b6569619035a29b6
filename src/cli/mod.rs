//! `netmon-cli`: queries the agent of this host through its control socket, and shows the answers.

mod args;
mod bundle;
mod client;
mod commands;
mod doctor;
mod events;
mod packet_trace;
mod pcapng;
mod show;
mod target;
mod top;
mod whole;

pub use args::CliArgs;
pub use commands::{arguments, eprint_line, main};
