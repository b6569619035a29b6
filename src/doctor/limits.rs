//! Checks the limits of the agent: locked memory, and the limits of its control group.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use procfs::process::{MountInfo, Process};

use super::programs::mib;
use super::{Check, Help};
use crate::bpf::Trial;

/// Memory of an idle agent, in bytes; each tracked flow takes more.
const IDLE_BYTES: u64 = 20 << 20;
/// With less than this share of a core, an agent cannot keep up with busy networks.
const CPU_LEAST: f64 = 0.1;

pub(super) fn check(trial: Option<&Trial>, help: Help) -> Vec<Check> {
    let cgroup = Groups::read().map(|groups| groups.check(trial, help));
    vec![
        memlock(trial.is_some(), help),
        cgroup.unwrap_or_else(|error| Check::unknown("cgroup limits", &format!("{error:#}"))),
    ]
}

fn memlock(loaded: bool, help: Help) -> Check {
    const NAME: &str = "locked memory";
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Err(error) => return Check::unknown(NAME, &error.to_string()),
        Ok((RLIM_INFINITY, _)) => return Check::ok(NAME, "no limit"),
        Ok((limit, _)) => limit >> 10,
    };
    if loaded {
        // libbpf raises the limit on kernels that enforce it for BPF (before 5.11), and the programs were just loaded.
        return Check::ok(NAME, format!("{limit} KiB at start, enough for the programs"));
    }
    Check::warn(
        NAME,
        format!("{limit} KiB, which may be why the programs cannot be loaded"),
        help.either(
            "ulimit -l unlimited (in a unit: LimitMEMLOCK=infinity)",
            "before Linux 5.11 the container needs SYS_RESOURCE: add the component linux-5.10 (the chart's privilege.linux510)",
        ),
    )
}

/// The tightest limits between this process's control group and the root.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    version: &'static str,
    memory: Option<u64>,
    cpus: Option<f64>,
}

impl Groups {
    fn read() -> Result<Groups> {
        let process = Process::myself().context("read /proc/self")?;
        let mounts = process.mountinfo().context("read /proc/self/mountinfo")?.0;
        let mut groups = Groups { version: "none", ..Groups::default() };
        for group in process.cgroups().context("read /proc/self/cgroup")?.0 {
            let unified = group.controllers.iter().all(String::is_empty);
            let mount = mounts.iter().find(|mount| match unified {
                true => mount.fs_type == "cgroup2",
                false => {
                    mount.fs_type == "cgroup" && group.controllers.iter().all(|c| mount.super_options.contains_key(c))
                }
            });
            let Some(mount) = mount else { continue };
            for directory in way_up(mount, &group.pathname) {
                let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
                let found = if unified { Groups::v2(read) } else { Groups::v1(read) };
                if found.memory.or(found.cpus.map(|_| 0)).is_some() || groups.version == "none" {
                    groups.version = found.version;
                }
                groups.memory = least(groups.memory, found.memory, |a, b| a.min(b));
                groups.cpus = least(groups.cpus, found.cpus, f64::min);
            }
        }
        Ok(groups)
    }

    fn v2(read: impl Fn(&str) -> Option<String>) -> Groups {
        let memory = read("memory.max").and_then(|text| text.trim().parse().ok());
        let cpus = read("cpu.max").and_then(|text| {
            let (quota, period) = text.trim().split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
        });
        Groups { version: "v2", memory, cpus }
    }

    fn v1(read: impl Fn(&str) -> Option<String>) -> Groups {
        let number = |name| read(name).and_then(|text| text.trim().parse::<i64>().ok());
        // Without a limit, the file holds the largest number of whole pages.
        let memory =
            number("memory.limit_in_bytes").filter(|bytes| *bytes < i64::MAX - (1 << 20)).map(|bytes| bytes as u64);
        let quota = number("cpu.cfs_quota_us").filter(|quota| *quota > 0);
        let cpus = quota.zip(number("cpu.cfs_period_us")).map(|(quota, period)| quota as f64 / period as f64);
        Groups { version: "v1", memory, cpus }
    }

    fn check(&self, trial: Option<&Trial>, help: Help) -> Check {
        const NAME: &str = "cgroup limits";
        let memory = self.memory.map_or("no memory limit".to_owned(), |bytes| format!("{:.0} MiB", mib(bytes)));
        let cpus = self.cpus.map_or("no CPU limit".to_owned(), |cpus| format!("{cpus:.2} CPUs"));
        let detail = format!("{}: {memory}, {cpus}", self.version);
        let wanted = IDLE_BYTES + trial.map_or(0, |trial| trial.kernel_bytes);
        if self.memory.is_some_and(|bytes| bytes < wanted) {
            let detail = format!("{detail}; the programs and an idle agent need {:.0} MiB", mib(wanted));
            return Check::fail(
                NAME,
                detail,
                help.either(
                    "raise resources.limits.memory of the container (systemd: MemoryMax=512M)",
                    "raise resources.limits.memory of the container",
                ),
            );
        }
        if self.memory.is_some_and(|bytes| bytes < 4 * wanted) {
            let detail = format!(
                "{detail}; the programs and an idle agent need {:.0} MiB of it, which leaves little for flows",
                mib(wanted)
            );
            return Check::warn(
                NAME,
                detail,
                format!(
                    "raise resources.limits.memory of the container, or {}",
                    help.setting("flow.max_flows", "100000")
                ),
            );
        }
        if self.cpus.is_some_and(|cpus| cpus < CPU_LEAST) {
            let remedy = help.either(
                "raise resources.limits.cpu of the container (systemd: CPUQuota=100%)",
                "raise resources.limits.cpu of the container",
            );
            return Check::warn(NAME, detail, remedy);
        }
        Check::ok(NAME, detail)
    }
}

/// The directories of a control group and its ancestors, as far as they are visible.
fn way_up(mount: &MountInfo, group: &str) -> Vec<PathBuf> {
    let inside = Path::new(group).strip_prefix(&mount.root).unwrap_or(Path::new(group));
    let inside = inside.strip_prefix("/").unwrap_or(inside);
    inside.ancestors().map(|part| mount.mount_point.join(part)).collect()
}

fn least<T>(a: Option<T>, b: Option<T>, min: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(min(a, b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn files(list: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| list.iter().find(|(file, _)| *file == name).map(|(_, text)| format!("{text}\n"))
    }

    #[test]
    fn limits_of_both_versions() {
        let limit = |version, memory, cpus| Groups { version, memory, cpus };
        let v2 = |memory, cpu| Groups::v2(files(&[("memory.max", memory), ("cpu.max", cpu)]));
        assert_eq!(v2("536870912", "50000 100000"), limit("v2", Some(512 << 20), Some(0.5)));
        assert_eq!(v2("max", "max 100000"), limit("v2", None, None));
        let v1 = |memory, quota| {
            Groups::v1(files(&[
                ("memory.limit_in_bytes", memory),
                ("cpu.cfs_quota_us", quota),
                ("cpu.cfs_period_us", "100000"),
            ]))
        };
        assert_eq!(v1("536870912", "200000"), limit("v1", Some(512 << 20), Some(2.0)));
        assert_eq!(v1("9223372036854771712", "-1"), limit("v1", None, None));
        assert_eq!(Groups::v1(files(&[])), limit("v1", None, None));
    }

    #[test]
    fn tight_limits_are_reported() {
        let status = |memory, cpus| Groups { version: "v2", memory, cpus }.check(None, Help::Host).status;
        assert_eq!(status(None, None), Status::Ok);
        assert_eq!(status(Some(512 << 20), Some(1.0)), Status::Ok);
        assert_eq!(status(Some(64 << 20), None), Status::Warn);
        assert_eq!(status(Some(10 << 20), None), Status::Fail);
        assert_eq!(status(None, Some(0.05)), Status::Warn);
    }
}
