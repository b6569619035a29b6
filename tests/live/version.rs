//! Everything that reports the version reports the same one.

use std::process::Command;

use super::binary::NETMON;
use super::control::{CLI, Operated};
use super::metrics;
use super::net::quiet_pair;
use crate::needs_root;

/// Version, commit and architecture, as `--version` prints them.
fn printed(program: &str, name: &str) -> String {
    let output = Command::new(program).arg("--version").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim_end().strip_prefix(&format!("{name} ")).unwrap_or_else(|| panic!("{text:?} has no {name}")).to_owned()
}

#[test]
fn programs_metric_and_status_agree() {
    needs_root!();
    let version = printed(NETMON, "netmon");
    assert_eq!(printed(CLI, "netmon-cli"), version);
    assert_eq!(version.split(' ').next(), Some(env!("NETMON_VERSION")));

    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "version", &[]);
    let address = agent.program.log.iter().find_map(|line| line.split("metrics on http://").nth(1)).unwrap();
    let page = metrics::get(&b, address.strip_suffix("/metrics").unwrap().parse().unwrap(), "/metrics");
    let info = page.body.lines().find(|line| line.starts_with("netmon_build_info{")).unwrap();
    let label = |name: &str| {
        let value = info.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        value.unwrap_or_else(|| panic!("{info} has no {name}")).to_owned()
    };
    assert_eq!(format!("{} ({}, {})", label("version"), label("commit"), label("arch")), version);

    let status = agent.json(&["status"]);
    let of = |key: &str| status[key].as_str().unwrap_or_else(|| panic!("{status} has no {key}")).to_owned();
    assert_eq!(format!("{} ({}, {})", of("version"), of("commit"), of("arch")), version);
}
