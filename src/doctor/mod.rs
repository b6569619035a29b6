//! Can this host run netmon, and what would netmon not see here? Found by trying, never by version numbers.

mod cluster;
mod help;
mod host;
mod interfaces;
mod limits;
mod owners;
mod print;
mod privilege;
mod programs;

use serde::{Deserialize, Serialize};

use crate::config::Config;

pub use help::Help;
pub use print::print;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// netmon runs, but something is slower, or hidden from it, or could not be found out.
    Warn,
    /// netmon does not run like that.
    Fail,
}

impl Status {
    /// As in output.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it went.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// A command that helps, or what to change.
    pub remedy: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Check {
        Check { name: name.into(), status: Status::Ok, detail: detail.into(), remedy: None }
    }

    /// It could be better.
    pub fn warn(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name: name.into(), status: Status::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// It does not do.
    pub fn fail(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { status: Status::Fail, ..Check::warn(name, detail, remedy) }
    }

    /// It could not be found out.
    fn unknown(name: &str, why: &str) -> Check {
        Check { name: name.to_owned(), status: Status::Warn, detail: format!("not known: {why}"), remedy: None }
    }
}

/// What netmon does not see on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindSpot {
    /// Where.
    pub name: String,
    /// Why.
    pub detail: String,
    /// What makes it seen, if anything does.
    pub remedy: Option<String>,
}

/// What was found on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The worst of the checks.
    pub status: Status,
    /// In the order in which they matter.
    pub checks: Vec<Check>,
    /// What stays hidden.
    pub blind_spots: Vec<BlindSpot>,
}

impl Report {
    /// Of these.
    pub fn new(checks: Vec<Check>, blind_spots: Vec<BlindSpot>) -> Report {
        let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
        Report { status, checks, blind_spots }
    }

    /// Adds what somebody else has looked at: a running agent's losses, the cluster.
    pub fn extend(&mut self, checks: impl IntoIterator<Item = Check>) {
        self.checks.extend(checks);
        *self = Report::new(std::mem::take(&mut self.checks), std::mem::take(&mut self.blind_spots));
    }

    /// Something does not do.
    pub fn failed(&self) -> bool {
        self.status == Status::Fail
    }
}

/// Names in one line.
const NAMES: usize = 8;

/// The first of them, and how many more there are.
pub fn shorten(names: &[String]) -> String {
    match names.split_at_checked(NAMES) {
        Some((shown, more)) if !more.is_empty() => format!("{} and {} more", shown.join(", "), more.len()),
        _ => names.join(", "),
    }
}

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct DoctorOptions {
    /// How the agent runs, or would.
    pub config: Config,
}

/// Looks at everything. Nothing of the host is changed, and an agent may run beside.
pub fn run(options: &DoctorOptions) -> Report {
    let (config, help) = (&options.config, Help::here());
    let mut checks = vec![host::kernel()];
    checks.extend(privilege::capabilities(config, help));
    let (trial, tried) = programs::check(config, help);
    checks.extend(tried);
    checks.extend(limits::check(trial.as_ref(), help));
    checks.extend(host::check(config, help));
    checks.extend(cluster::check(config));
    let mut blind_spots = Vec::new();
    checks.extend(interfaces::check(config, help, &mut blind_spots));
    Report::new(checks, blind_spots)
}
