//! Checks of the kernel, the settings that matter to netmon, and other software on the host.

use std::fs;
use std::path::Path;

use procfs::process::Process;

use super::{Check, Help};
use crate::bpf;
use crate::config::Config;

/// Clock sources that take a microsecond or more to read.
const SLOW_CLOCKS: [&str; 4] = ["hpet", "acpi_pm", "jiffies", "pit"];
/// Tools that help to examine a host by hand.
const TOOLS: [&str; 4] = ["ip", "tc", "bpftool", "conntrack"];

pub(super) fn kernel() -> Check {
    let read = |name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let release = read("osrelease");
    let rt = if bpf::is_preempt_rt() { ", PREEMPT_RT" } else { "" };
    Check::ok("kernel", format!("Linux {} on {}{rt}", release.trim(), std::env::consts::ARCH))
}

pub(super) fn check(config: &Config, help: Help) -> Vec<Check> {
    let mut checks = vec![proc(help), agent(), bpffs(help), conntrack(config, help), clock(help)];
    checks.extend(tunables(help, |path| fs::read_to_string(path).ok()));
    checks.push(tools());
    checks
}

/// Checks that /proc is mounted, which it is not in some containers. Other processes may be hidden (hidepid): that only
/// hides the owners of programs on interfaces.
fn proc(help: Help) -> Check {
    match bpf::check_proc() {
        Ok(()) => Check::ok("/proc", "mounted, and shows netmon's own processes"),
        Err(error) => Check::fail(
            "/proc",
            format!("{error:#}"),
            help.either("mount -t proc proc /proc", "let the container runtime mount /proc in the container"),
        ),
    }
}

fn agent() -> Check {
    match bpf::claim_host() {
        Ok(_released) => Check::ok("agent", "none runs in this network namespace"),
        Err(error) if format!("{error:#}").contains("another netmon agent") => Check::ok(
            "agent",
            "one runs in this network namespace (netmon-cli status), so a second one would not start",
        ),
        Err(error) => Check::unknown("agent", &format!("{error:#}")),
    }
}

/// netmon pins nothing; other programs need bpffs.
fn bpffs(help: Help) -> Check {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    match mounts {
        Err(error) => Check::unknown("bpffs", &error.to_string()),
        Ok(mounts) => match mounts.0.iter().find(|mount| mount.fs_type == "bpf") {
            Some(mount) => Check::ok("bpffs", format!("at {}", mount.mount_point.display())),
            None => Check::warn(
                "bpffs",
                "not mounted: netmon does not need it, but bpftool and other networking programs do",
                help.either(
                    "mount -t bpf bpf /sys/fs/bpf",
                    "none needed; to see what other programs pin, mount the node's /sys/fs/bpf there as a hostPath volume",
                ),
            ),
        },
    }
}

fn conntrack(config: &Config, help: Help) -> Check {
    const NAME: &str = "connection tracking";
    if !config.nat {
        return Check::ok(NAME, "not configured (capture.nat is false)");
    }
    let missing = "a connection with translated addresses counts as two flows";
    let count = match bpf::list_translated() {
        Ok(translated) => translated.len(),
        Err(error) => {
            return Check::warn(NAME, format!("{error:#}: {missing}"), help.on_host("modprobe nf_conntrack_netlink"));
        }
    };
    if fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_events").is_ok_and(|value| value.trim() == "0") {
        return Check::warn(
            NAME,
            format!("available, but it reports no events: {missing}"),
            help.on_host("sysctl -w net.netfilter.nf_conntrack_events=2"),
        );
    }
    Check::ok(NAME, format!("available, {count} translated connections at present"))
}

fn clock(help: Help) -> Check {
    const DIRECTORY: &str = "/sys/devices/system/clocksource/clocksource0";
    let read = |name: &str| fs::read_to_string(Path::new(DIRECTORY).join(name)).map(|text| text.trim().to_owned());
    match read("current_clocksource") {
        Err(error) => Check::unknown("clock source", &error.to_string()),
        Ok(clock) => clock_check(&clock, &read("available_clocksource").unwrap_or_default(), DIRECTORY, help),
    }
}

fn clock_check(clock: &str, available: &str, directory: &str, help: Help) -> Check {
    if !SLOW_CLOCKS.contains(&clock) {
        return Check::ok("clock source", clock);
    }
    let detail = format!("{clock}: each measured time costs a microsecond or more");
    match available.split_whitespace().find(|other| !SLOW_CLOCKS.contains(other)) {
        Some(better) => {
            let remedy = help.on_host(format!("echo {better} > {directory}/current_clocksource"));
            Check::warn("clock source", detail, remedy)
        }
        None => Check::warn("clock source", detail, help.setting("features.latency_tracking.enabled", "false")),
    }
}

/// Checks settings that make every packet more expensive, or hide some.
fn tunables(help: Help, read: impl Fn(&str) -> Option<String>) -> Vec<Check> {
    let value = |path: &str| read(path).and_then(|text| text.trim().parse::<u64>().ok());
    let mut checks = Vec::new();
    if value("/proc/sys/net/core/bpf_jit_harden") == Some(2) {
        checks.push(Check::warn(
            "net.core.bpf_jit_harden",
            "2: constants are blinded for root, too, which makes programs slower",
            help.on_host("sysctl -w net.core.bpf_jit_harden=1"),
        ));
    }
    if value("/proc/sys/kernel/bpf_stats_enabled") == Some(1) {
        checks.push(Check::warn(
            "kernel.bpf_stats_enabled",
            "1: the kernel reads the clock twice for each packet, before and after each program runs",
            help.on_host("sysctl -w kernel.bpf_stats_enabled=0"),
        ));
    }
    let conntrack = |name| value(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    if let (Some(count), Some(max)) = (conntrack("count"), conntrack("max"))
        && max > 0
        && count * 10 > max * 9
    {
        checks.push(Check::warn(
            "net.netfilter.nf_conntrack_max",
            format!("{count} of {max} connections are tracked: new ones are about to be dropped"),
            help.on_host(format!("sysctl -w net.netfilter.nf_conntrack_max={}", 2 * max)),
        ));
    }
    let lockdown = read("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        checks.push(Check::warn(
            "lockdown",
            "confidentiality: BPF programs may not read kernel memory",
            help.either("boot with lockdown=integrity", "boot the node with lockdown=integrity"),
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok("kernel settings", "none that makes packets more expensive"));
    }
    checks
}

fn tools() -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &&str| {
        std::env::split_paths(&path).chain(["/sbin".into(), "/usr/sbin".into()]).any(|at| at.join(tool).is_file())
    };
    let (here, missing): (Vec<&str>, Vec<&str>) = TOOLS.iter().partition(|tool| there(tool));
    let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    Check::ok("tools", format!("netmon needs none; installed: {}; missing: {}", list(&here), list(&missing)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn slow_clocks() {
        assert_eq!(clock_check("tsc", "tsc hpet", "/d", Help::Host).status, Status::Ok);
        let slow = clock_check("hpet", "hpet acpi_pm tsc", "/d", Help::Host);
        assert_eq!((slow.status, slow.remedy.as_deref()), (Status::Warn, Some("echo tsc > /d/current_clocksource")));
        assert!(clock_check("acpi_pm", "acpi_pm", "/d", Help::Host).remedy.unwrap().contains("latency_tracking"));
    }

    #[test]
    fn settings_that_hurt() {
        let of = |path: &str, text: &str| {
            let (path, text) = (path.to_owned(), text.to_owned());
            tunables(Help::Host, move |asked| (asked == path).then(|| text.clone()))
        };
        let names = |checks: Vec<Check>| checks.into_iter().map(|check| check.name).collect::<Vec<_>>();
        assert_eq!(names(of("/proc/sys/net/core/bpf_jit_harden", "2\n")), ["net.core.bpf_jit_harden"]);
        assert_eq!(names(of("/proc/sys/net/core/bpf_jit_harden", "1\n")), ["kernel settings"]);
        assert_eq!(names(of("/proc/sys/kernel/bpf_stats_enabled", "1\n")), ["kernel.bpf_stats_enabled"]);
        assert_eq!(names(of("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")), ["lockdown"]);
        let full = |path: &str| {
            Some(if path.ends_with("_count") { "95" } else { "100" }.to_owned()).filter(|_| path.contains("nf_"))
        };
        let checks = tunables(Help::Host, full);
        assert_eq!(checks[0].remedy.as_deref(), Some("sysctl -w net.netfilter.nf_conntrack_max=200"));
    }
}
