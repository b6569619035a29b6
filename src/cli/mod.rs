//! `netmon-cli`: asks the agent of this host, by its control socket, and shows what it says.

mod args;
mod bundle;
mod client;
mod commands;
mod doctor;
mod packet_trace;
mod pcapng;
mod show;
mod target;
mod top;
mod whole;

pub use args::CliArgs;
pub use commands::{arguments, main, tell_people};
