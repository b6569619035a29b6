//! Programs of others, by name and owner, and pods that have no link on the host.

use netmon::doctor::{Report, Status};

use super::{check, checked_in};
use crate::live::agent::{Agent, watching};
use crate::live::foreign::{ChainPlace, Deed, Foreign};
use crate::live::net::quiet_pair;
use crate::support::netns::Netns;
use crate::support::sh;
use crate::{needs_root, needs_tcx};

/// Asserts that the program is reported, with this process as its owner.
fn assert_reported(report: &Report, name: &str, program: &str, status: Status) {
    let check = check(report, name);
    assert_eq!(check.status, status, "{check:?}");
    let pid = format!("(pid {})", std::process::id());
    assert!(check.detail.contains(program) && check.detail.contains(&pid), "{check:?}");
    let hidden = report.blind_spots.iter().any(|spot| spot.name.contains(program) && spot.name.contains(name));
    assert_eq!(hidden, status == Status::Warn, "{:?}", report.blind_spots);
}

/// Both kinds of chains are needed to distinguish them.
#[test]
fn programs_of_others() {
    needs_tcx!();
    let (_a, b) = quiet_pair();
    b.enter_for(|| {
        let tcx = Foreign::attach(&b, "vb", ChainPlace::TcxLast, Deed::Pass);
        let late = Foreign::attach(&b, "vb", ChainPlace::Clsact(7), Deed::Pass);
        let (report, code) = checked_in(&b, &[]);
        assert_eq!(code, 0);
        assert_reported(&report, "tcx ingress on vb", "foreign_ingress", Status::Ok);
        assert_reported(&report, "tcx egress on vb", "foreign_egress", Status::Ok);
        assert_reported(&report, "clsact ingress (priority 7) on vb", "foreign_ingress", Status::Ok);
        assert!(report.checks.iter().all(|check| check.name != "other programs"));

        // With clsact, all TCX programs run first, and so do filters with a smaller priority.
        let early = Foreign::attach(&b, "vb", ChainPlace::Clsact(1), Deed::Pass);
        let (report, _) = checked_in(&b, &[("NETMON_FORCE_CLSACT", "1")]);
        assert_reported(&report, "tcx ingress on vb", "foreign_ingress", Status::Warn);
        assert_reported(&report, "clsact ingress (priority 7) on vb", "foreign_ingress", Status::Ok);
        assert_reported(&report, "clsact egress (priority 1) on vb", "foreign_egress", Status::Warn);
        for foreign in [early, late, tcx] {
            foreign.detach();
        }
    });
}

#[test]
fn programs_beside_an_agent() {
    needs_tcx!();
    let (_a, b) = quiet_pair();
    b.enter_for(|| {
        let last = Foreign::attach(&b, "vb", ChainPlace::TcxLast, Deed::Pass);
        let agent = Agent::start(&b, watching(&["vb"]));
        let (report, _) = checked_in(&b, &[]);
        assert!(check(&report, "agent").detail.contains("one runs"), "{report:#?}");
        assert_reported(&report, "tcx ingress on vb", "foreign_ingress", Status::Ok);
        last.detach();
        // It attached later than the agent, and before it in the chain.
        let first = Foreign::attach(&b, "vb", ChainPlace::TcxFirst, Deed::Pass);
        let (report, _) = checked_in(&b, &[]);
        assert_reported(&report, "tcx ingress on vb", "foreign_ingress", Status::Warn);
        let mut on_vb = report.checks.iter().filter(|check| check.name.ends_with(" on vb"));
        assert!(on_vb.all(|check| !check.detail.contains("nm_ingress")), "netmon's own programs are not reported");
        first.detach();
        agent.stop();
    });
}

#[test]
fn pods_without_a_link() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let pod = Netns::new("pod");
    sh(&format!("ip -n {} link add mv0 link vb netns {} type macvlan", b.name, pod.name));
    let (report, _) = checked_in(&b, &[]);
    let hidden = report.blind_spots.iter().find(|spot| spot.name == "pods without a link on the host");
    let hidden = hidden.unwrap_or_else(|| panic!("{:?}", report.blind_spots));
    assert!(hidden.detail.contains(&format!("mv0 (macvlan) in {}", pod.name)), "{hidden:?}");
    assert!(hidden.remedy.as_deref().unwrap().contains("capture.pod_namespaces=true"));
    let (report, _) = checked_in(&b, &[("NETMON_CAPTURE_POD_NAMESPACES", "true")]);
    assert!(report.blind_spots.iter().all(|spot| spot.name != "pods without a link on the host"));
}
