//! `netmon-cli`: operates the agent of this host.

use std::process::ExitCode;

use clap::Parser;
use netmon::bpf;
use netmon::cli::{self, CliArgs};

fn main() -> ExitCode {
    // `doctor` tries what the agent needs.
    bpf::raise_capabilities();
    match cli::run(&CliArgs::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netmon-cli: {error:#}");
            ExitCode::FAILURE
        }
    }
}
