//! `netmon-cli`: queries and controls the agent of this host.

use std::process::ExitCode;

fn main() -> ExitCode {
    netmon::cli::main()
}
