//! `netmon check-system` on hosts that lack something: only the check of what is missing reports it, with a remedy.

// clippy.toml allows these only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod limits;
mod neighbours;

use std::process::Command;

use netmon::doctor::{Check, Report, Status};

use crate::live::binary::{NETMON, Program};
use crate::live::foreign::{ChainPlace, Deed, Foreign};
use crate::live::net::quiet_pair;
use crate::needs_root;
use crate::support::netns::Netns;

/// Runs the checks; returns the report and the exit status.
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

/// The check with this name.
pub fn check<'a>(report: &'a Report, name: &str) -> &'a Check {
    let found = report.checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no check {name}: {report:#?}"))
}

fn failed(report: &Report) -> Vec<&str> {
    let failed = report.checks.iter().filter(|check| check.status == Status::Fail);
    failed.map(|check| check.name.as_str()).collect()
}

/// Runs the checks in a mount namespace of their own, after `prepare`.
fn with_mounts(prepare: &str) -> (Report, i32) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &format!("{prepare}; exec \"$0\" \"$@\""), NETMON]);
    checked(command)
}

/// The check of /proc agrees with whether an agent can start there.
#[test]
fn a_proc_that_hides_something() {
    needs_root!();
    let (_a, b) = quiet_pair();
    for (prepare, runs) in [
        ("umount -l /proc", false),
        ("mount -t tmpfs none /proc", false),
        ("mount -t proc -o hidepid=invisible proc /proc", true),
        ("mount -t proc -o subset=pid proc /proc", true),
    ] {
        let within = |arguments: &str| {
            let script = format!("mount --make-rprivate / && {prepare} && exec \"$0\" {arguments}");
            let mut command = b.command("unshare");
            command.args(["--mount", "sh", "-ec", &script, NETMON]);
            command
        };
        let (report, code) = checked(within("\"$@\""));
        assert_eq!(
            (code, check(&report, "/proc").status == Status::Ok),
            (i32::from(!runs), runs),
            "{prepare}: {report:#?}"
        );
        let mut agent = Program::spawn(within("--metrics-addr 127.0.0.1:0 --interface vb"));
        if runs {
            agent.wait_for("ready");
            agent.signal("TERM");
        }
        let (status, _, log) = agent.end();
        assert_eq!(status.success(), runs, "{prepare}: {log:#?}");
        assert!(runs || log.last().unwrap().contains("needs /proc mounted"), "{prepare}: {log:#?}");
    }
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
    // The checks leave nothing behind.
    let left = b.sh("tc qdisc show dev vb; tc qdisc show dev lo");
    assert!(!left.contains("clsact"), "{left}");
}

#[test]
fn capabilities_one_by_one() {
    needs_root!();
    // CAP_SYS_ADMIN includes the first two, so it is dropped with them.
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
    assert_eq!((code, check(&report, "CAP_BPF").status), (0, Status::Ok), "CAP_SYS_ADMIN includes it");
}

#[test]
fn file_systems_that_are_missing() {
    needs_root!();
    // Unmount every bpffs: other programs mount theirs anywhere. In /proc/mounts, \\040 stands for a space.
    let bare = r#"while at=$(grep -m1 -E '^[^ ]+ [^ ]+ bpf ' /proc/mounts | cut -d' ' -f2); [ -n "$at" ]; do
        umount -l "$(printf '%b' "$at")"; done"#;
    let (report, code) = with_mounts(bare);
    let bpffs = check(&report, "bpffs");
    assert_eq!((code, bpffs.status), (0, Status::Warn));
    assert_eq!(bpffs.remedy.as_deref(), Some("mount -t bpf bpf /sys/fs/bpf"));
    // The remedy works.
    let (report, _) = with_mounts(&format!("{bare}; {}", bpffs.remedy.as_deref().unwrap()));
    assert_eq!(check(&report, "bpffs").status, Status::Ok);

    let (report, code) = with_mounts("mount -t tmpfs none /sys/kernel/btf");
    assert_eq!((code, check(&report, "BTF").status), (1, Status::Fail));
    assert!(check(&report, "BTF").remedy.as_deref().unwrap().contains("CONFIG_DEBUG_INFO_BTF=y"));
}

/// The operator of a pod has a manifest and a node; the container has neither `sudo` nor a systemd unit.
#[test]
fn remedies_in_a_pod_speak_of_pods() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let ways = [
        ("--bounding-set=-all --inh-caps=-all", ""),
        ("", "umount -l /sys/fs/bpf; mount -t tmpfs none /sys/kernel/btf;"),
        ("--bounding-set=-net_admin --inh-caps=-net_admin", "export NETMON_CAPTURE_INTERFACES=nosuch0;"),
    ];
    for (privileges, prepare) in ways {
        let remedies = |pod: bool| {
            let mut command = b.command("unshare");
            let line = format!("{{ {prepare} }} 2>/dev/null; exec setpriv {privileges} \"$0\" \"$@\"");
            let line = if prepare.is_empty() { line.replace("{  } 2>/dev/null; ", "") } else { line };
            command.args(["--mount", "sh", "-c", &line, NETMON]);
            if pod {
                command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1");
            } else {
                command.env_remove("KUBERNETES_SERVICE_HOST");
            }
            let (report, _) = checked(command);
            let checks = report.checks.into_iter().filter_map(|check| check.remedy);
            checks.chain(report.blind_spots.into_iter().filter_map(|spot| spot.remedy)).collect::<Vec<_>>()
        };
        let (host, pod) = (remedies(false), remedies(true));
        assert!(pod.len() >= 2, "{privileges} {prepare}: {pod:#?}");
        for remedy in &pod {
            for word in ["sudo", "systemctl", "--interface", "netmon --set", "ulimit", "apt-get"] {
                assert!(!remedy.contains(word) || remedy.starts_with("on the node: "), "{word}: {remedy}");
            }
            for command in ["mount ", "sysctl ", "modprobe ", "echo ", "tc ", "ip "] {
                assert!(!remedy.starts_with(command), "{remedy}");
            }
        }
        let is_sudo = |remedy: &String| remedy.contains("sudo netmon");
        assert_eq!(host.iter().any(is_sudo), privileges.contains("inh-caps"), "{host:#?}");
        if privileges.contains("-all") {
            assert!(
                pod.iter().any(|remedy| remedy.contains("securityContext: capabilities: {add: [BPF]}")),
                "{pod:#?}"
            );
        }
    }
}

/// A node has as many links as pods, with another program on each of them.
#[test]
fn equal_interfaces_share_a_line() {
    needs_root!();
    let ns = crate::live::net::host("node");
    let links: Vec<String> = (0..12).map(|number| format!("p{number}")).collect();
    for link in &links {
        ns.sh(&format!("ip link add {link} type veth peer name q{link} && ip link set {link} up"));
    }
    ns.sh("ip link add odd type veth peer name qodd && ip link set odd up");
    let text = ns.enter_for(|| {
        let alike: Vec<Foreign> =
            links.iter().map(|link| Foreign::attach(&ns, link, ChainPlace::Clsact(1), Deed::Pass)).collect();
        let other = Foreign::attach(&ns, "odd", ChainPlace::Clsact(7), Deed::Pass);
        let mut command = ns.command(NETMON);
        command.env("NETMON_FORCE_CLSACT", "1").env("NETMON_CAPTURE_INTERFACES", "p*,odd");
        let output = command.arg("check-system").output().unwrap();
        alike.into_iter().chain([other]).for_each(Foreign::detach);
        String::from_utf8(output.stdout).unwrap()
    });
    for hook in ["ingress", "egress"] {
        let lines_with = |what: &str| -> Vec<&str> { text.lines().filter(|line| line.contains(what)).collect() };
        // A check, and the blind spot that belongs to it.
        let lines = lines_with(&format!("clsact {hook} (priority 1) on "));
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("p0, p1, p2, p3, p4, p5, p6, p7 and 4 more"), "{text}");
        assert!(lines[0].contains("(ids ") && lines[0].contains(&format!("(pid {})", std::process::id())), "{text}");
        assert_eq!(lines_with(&format!("clsact {hook} (priority 7) on odd")).len(), 1, "netmon goes before it: {text}");
    }
}

#[test]
fn missing_interfaces() {
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
