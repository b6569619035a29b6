//! Checks whether this host can run netmon, and what netmon would not see here. It tries things out instead of
//! comparing versions.

mod cluster;
mod help;
mod host;
mod interfaces;
mod limits;
mod owners;
mod ports;
mod print;
mod privilege;
mod programs;

use serde::{Deserialize, Serialize};

use crate::config::Config;

pub use help::Help;
pub use print::print;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// netmon runs, but something is slow, hidden from it, or could not be determined.
    Warn,
    /// netmon cannot run.
    Fail,
}

impl Status {
    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// The result.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// A command or a change that helps.
    pub remedy: Option<String>,
}

impl Check {
    /// A check without a problem.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Check {
        Check { name: name.into(), status: Status::Ok, detail: detail.into(), remedy: None }
    }

    /// A check with a problem that does not keep netmon from running.
    pub fn warn(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name: name.into(), status: Status::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// A check with a problem that keeps netmon from running.
    pub fn fail(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { status: Status::Fail, ..Check::warn(name, detail, remedy) }
    }

    /// A check that could not be carried out.
    fn unknown(name: &str, why: &str) -> Check {
        Check { name: name.to_owned(), status: Status::Warn, detail: format!("not known: {why}"), remedy: None }
    }
}

/// Traffic that netmon does not see on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindSpot {
    /// What is not seen.
    pub name: String,
    /// The reason.
    pub detail: String,
    /// What makes it visible, if anything does.
    pub remedy: Option<String>,
}

/// The results of all checks of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The worst result.
    pub status: Status,
    /// The checks, in the order of their importance.
    pub checks: Vec<Check>,
    /// Traffic that netmon does not see.
    pub blind_spots: Vec<BlindSpot>,
}

impl Report {
    /// A report of these checks; its status is the worst of theirs.
    pub fn new(checks: Vec<Check>, blind_spots: Vec<BlindSpot>) -> Report {
        let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
        Report { status, checks, blind_spots }
    }

    /// Adds checks from elsewhere, such as those of a running agent.
    pub fn extend(&mut self, checks: impl IntoIterator<Item = Check>) {
        self.checks.extend(checks);
        *self = Report::new(std::mem::take(&mut self.checks), std::mem::take(&mut self.blind_spots));
    }

    /// True if a check failed.
    pub fn failed(&self) -> bool {
        self.status == Status::Fail
    }
}

/// Maximum number of names on one line.
const NAMES: usize = 8;

/// The first names, and how many more there are.
pub fn shorten(names: &[String]) -> String {
    match names.split_at_checked(NAMES) {
        Some((shown, more)) if !more.is_empty() => format!("{} and {} more", shown.join(", "), more.len()),
        _ => names.join(", "),
    }
}

/// What to check for.
#[derive(Clone, Debug, Default)]
pub struct DoctorOptions {
    /// The configuration of the agent that runs, or would be started.
    pub config: Config,
}

/// Runs all checks. It changes nothing on the host, and an agent may be running.
pub fn run(options: &DoctorOptions) -> Report {
    let (config, help) = (&options.config, Help::here());
    let mut checks = vec![host::kernel()];
    checks.extend(privilege::capabilities(config, help));
    let (trial, tried) = programs::check(config, help);
    checks.extend(tried);
    checks.extend(limits::check(trial.as_ref(), help));
    checks.extend(host::check(config, help));
    checks.extend(cluster::check(config));
    checks.extend(ports::check(config, help));
    let mut blind_spots = Vec::new();
    checks.extend(interfaces::check(config, help, &mut blind_spots));
    Report::new(checks, blind_spots)
}
