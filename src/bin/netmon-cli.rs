//! `netmon-cli`: operates the agent of this host.

use std::process::ExitCode;

use clap::Parser;
use netmon::cli::{self, CliArgs};

fn main() -> ExitCode {
    match cli::run(&CliArgs::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netmon-cli: {error:#}");
            ExitCode::FAILURE
        }
    }
}
