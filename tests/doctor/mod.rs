//! `netmon check-system` on hosts that lack something: the line of just that says so, with what helps.

// clippy.toml allows these in functions marked as tests only.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod limits;
mod neighbours;

use std::process::Command;

use netmon::doctor::{Check, Report, Status};

use crate::live::binary::NETMON;
use crate::live::net::quiet_pair;
use crate::needs_root;
use crate::support::netns::Netns;

/// What is said, and the exit status.
pub fn checked(mut command: Command) -> (Report, i32) {
    let output = command.args(["check-system", "-o", "json"]).output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (report.unwrap_or_else(|error| panic!("{error}: {output:?}")), output.status.code().unwrap())
}

fn checked_in(ns: &Netns, environment: &[(&str, &str)]) -> (Report, i32) {
    let mut command = ns.command(NETMON);
    command.envs(environment.iter().copied());
    checked(command)
}

/// The check of this name.
pub fn check<'a>(report: &'a Report, name: &str) -> &'a Check {
    let found = report.checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no check {name}: {report:#?}"))
}

fn failed(report: &Report) -> Vec<&str> {
    let failed = report.checks.iter().filter(|check| check.status == Status::Fail);
    failed.map(|check| check.name.as_str()).collect()
}

/// Runs it in a mount namespace of its own, after `prepare`.
fn with_mounts(prepare: &str) -> (Report, i32) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &format!("{prepare}; exec \"$0\" \"$@\""), NETMON]);
    checked(command)
}

#[test]
fn a_host_that_lacks_nothing() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let (report, code) = checked_in(&b, &[]);
    assert_eq!((code, failed(&report)), (0, vec![]), "{report:#?}");
    for name in ["CAP_BPF", "CAP_NET_ADMIN", "BTF", "ring buffer", "programs", "attach mode", "interfaces"] {
        assert_eq!(check(&report, name).status, Status::Ok, "{name}");
    }
    assert_eq!(check(&report, "interfaces").detail, "1 watched: vb (veth)");
    assert!(check(&report, "interfaces: excluded").detail.starts_with("lo (loopback)"));
    assert!(report.blind_spots.iter().any(|spot| spot.name == "traffic of lo (loopback)"), "{:?}", report.blind_spots);
    assert_eq!(check(&report, "other programs").status, Status::Ok);
    // Nothing of what was tried is left.
    let left = b.sh("tc qdisc show dev vb; tc qdisc show dev lo");
    assert!(!left.contains("clsact"), "{left}");
}

#[test]
fn capabilities_one_by_one() {
    needs_root!();
    // CAP_SYS_ADMIN stands for the first two, so it goes with them.
    for (dropped, name, short) in [
        (&["bpf", "sys_admin"][..], "CAP_BPF", "[BPF]"),
        (&["perfmon", "sys_admin"], "CAP_PERFMON", "[PERFMON]"),
        (&["net_admin"], "CAP_NET_ADMIN", "[NET_ADMIN]"),
    ] {
        let list = dropped.iter().map(|capability| format!("-{capability}")).collect::<Vec<_>>().join(",");
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &list, "--inh-caps", &list, NETMON]);
        let (report, code) = checked(command);
        assert_eq!((code, report.status), (1, Status::Fail), "{name}");
        let capabilities: Vec<_> = failed(&report).into_iter().filter(|name| name.starts_with("CAP_")).collect();
        assert_eq!(capabilities, [name]);
        let remedy = check(&report, name).remedy.as_deref().unwrap();
        assert!(remedy.contains("sudo netmon") && remedy.contains(short), "{remedy}");
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-bpf", "--inh-caps", "-bpf", NETMON]);
    let (report, code) = checked(command);
    assert_eq!((code, check(&report, "CAP_BPF").status), (0, Status::Ok), "CAP_SYS_ADMIN stands for it");
}

#[test]
fn file_systems_that_are_missing() {
    needs_root!();
    let bare = "while umount -t bpf /sys/fs/bpf 2>/dev/null; do :; done";
    let (report, code) = with_mounts(bare);
    let bpffs = check(&report, "bpffs");
    assert_eq!((code, bpffs.status), (0, Status::Warn));
    assert_eq!(bpffs.remedy.as_deref(), Some("mount -t bpf bpf /sys/fs/bpf"));
    // The remedy is one.
    let (report, _) = with_mounts(&format!("{bare}; {}", bpffs.remedy.as_deref().unwrap()));
    assert_eq!(check(&report, "bpffs").status, Status::Ok);

    let (report, code) = with_mounts("mount -t tmpfs none /sys/kernel/btf");
    assert_eq!((code, check(&report, "BTF").status), (1, Status::Fail));
    assert!(check(&report, "BTF").remedy.as_deref().unwrap().contains("CONFIG_DEBUG_INFO_BTF=y"));
}

#[test]
fn interfaces_that_are_not_there() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let (report, code) = checked_in(&b, &[("NETMON_CAPTURE_INTERFACES", "nosuch0")]);
    let interfaces = check(&report, "interfaces");
    assert_eq!((code, interfaces.status), (1, Status::Fail));
    for word in ["nosuch0", "vb"] {
        assert!(interfaces.detail.contains(word), "{interfaces:?}");
    }
    assert!(interfaces.remedy.as_deref().unwrap().contains("--interface"));
}

#[test]
fn colours_only_on_a_terminal() {
    needs_root!();
    let output = Command::new(NETMON).arg("check-system").output().unwrap();
    let plain = String::from_utf8(output.stdout).unwrap();
    assert!(plain.contains("CAP_NET_ADMIN") && !plain.contains('\u{1b}'), "{plain}");
    let on_terminal = |no_color: &str| {
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{NETMON} check-system"), "/dev/null"]).env("NO_COLOR", no_color);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(on_terminal("").contains("\u{1b}["), "empty counts as unset");
    let without = on_terminal("1");
    assert!(without.contains("CAP_NET_ADMIN") && !without.contains('\u{1b}'), "{without}");
}
