//! Changes that others make to netmon's hooks while it watches are noticed, undone, counted and reported.

use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use netmon::bpf::{Bpf, ChainPlace, Hook, Hooked, Mode, list_hooked, list_links};
use netmon::config::{Config, Given, Key};

use super::agent::{Agent, watching};
use super::control::Operated;
use super::eventually;
use super::foreign::{self, Deed, Foreign};
use super::metrics::Page;
use super::net::{index, quiet_pair};
use crate::support::kernel::{attach_mode, small};
use crate::support::netns::Netns;
use crate::{needs_root, needs_tcx};

/// Netmon's programs at an interface.
pub fn ours(ns: &Netns, link: &str) -> Vec<Hooked> {
    let link = index(ns, link);
    ns.run(|| list_hooked(link).unwrap()).into_iter().filter(|program| program.ours).collect()
}

fn ids(ns: &Netns, link: &str) -> Vec<u32> {
    ours(ns, link).into_iter().filter_map(|program| program.id).collect()
}

fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => libbpf_sys::BPF_TCX_INGRESS,
        Hook::Egress => libbpf_sys::BPF_TCX_EGRESS,
    }
}

/// Detaches the TCX links of netmon's programs at an interface, as `bpftool link detach` does.
fn detach_links(ns: &Netns, link: &str, hooks: &[Hook]) -> usize {
    let wanted: Vec<(u32, u32)> = ours(ns, link)
        .iter()
        .filter(|program| hooks.contains(&program.hook))
        .filter_map(|program| Some((program.id?, attach_type(program.hook))))
        .collect();
    let (mut id, mut detached) = (0, 0);
    // SAFETY: it writes one id; the descriptor was just opened; `info` is as large as `size` says.
    unsafe {
        while libbpf_sys::bpf_link_get_next_id(id, &mut id) == 0 {
            let fd = libbpf_sys::bpf_link_get_fd_by_id(id);
            if fd < 0 {
                continue;
            }
            let fd = OwnedFd::from_raw_fd(fd);
            let mut info = libbpf_sys::bpf_link_info::default();
            let mut size = size_of_val(&info) as u32;
            let err = libbpf_sys::bpf_link_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut size);
            let is_tcx = err == 0 && info.type_ == libbpf_sys::BPF_LINK_TYPE_TCX;
            // One program may be at both hooks.
            if is_tcx && wanted.contains(&(info.prog_id, info.__bindgen_anon_1.tcx.attach_type)) {
                assert_eq!(libbpf_sys::bpf_link_detach(fd.as_raw_fd()), 0);
                detached += 1;
            }
        }
    }
    detached
}

/// Sends datagrams that come in at `vb`, and have no answer.
fn send(a: &Netns, count: u64) {
    a.run(|| {
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        (0..count).for_each(|_| drop(socket.send_to(b"hello", "10.9.0.2:9")));
    });
}

/// Waits until both hooks are restored and packets are seen; returns the number of counted losses.
fn back(a: &Netns, b: &Netns, agent: &Agent, what: &str) -> f64 {
    let start = Instant::now();
    eventually(&format!("both hooks are back after {what}"), || (ours(b, "vb").len() == 2).then_some(()));
    eprintln!("{what}: back after {:?}", start.elapsed());
    let seen = || agent.handle.report().books.get(&index(b, "vb")).map_or(0, |books| books.ingress.packets);
    let before = seen();
    send(a, 10);
    eventually("packets are seen again", || (seen() >= before + 10).then_some(()));
    Page::get(b, agent, "/metrics").sum("netmon_hooks_lost_total", &[])
}

#[test]
fn detached_tcx_links_are_restored() {
    needs_tcx!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["vb"]));
    let mut lost = 0;
    for hooks in [&[Hook::Ingress][..], &[Hook::Egress], &[Hook::Ingress, Hook::Egress]] {
        assert_eq!(detach_links(&b, "vb", hooks), hooks.len());
        lost += hooks.len();
        assert_eq!(back(&a, &b, &agent, &format!("{hooks:?}")), lost as f64);
    }
    let page = Page::get(&b, &agent, "/metrics");
    assert_eq!(page.sum("netmon_hooks_restored_total", &[]), lost as f64);
    assert!(agent.stop().0.conservation().holds());
    assert!(ours(&b, "vb").is_empty());
}

#[test]
fn deleted_filters_are_restored() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, Config { clsact: true, ..watching(&["vb"]) });
    let mut lost = 0;
    for (command, hooks) in [
        ("tc filter del dev vb ingress", 1),
        ("tc filter del dev vb egress pref 2", 1),
        ("tc qdisc del dev vb clsact", 2),
        // If netmon is back before that, its qdisc stays.
        ("tc qdisc del dev vb clsact && tc qdisc add dev vb clsact || true", 2),
    ] {
        b.sh(command);
        lost += hooks;
        // If both were removed at once, their losses may be noticed one after the other.
        let counted = back(&a, &b, &agent, command);
        assert_eq!(counted, f64::from(lost), "{command}");
    }
    assert!(agent.stop().0.conservation().holds());
    assert!(ours(&b, "vb").is_empty());
}

/// Another program takes the place of a filter: it stays, and the interface is reported as not watched until the place
/// is free.
#[test]
fn a_taken_place_is_reported() {
    needs_root!();
    let (a, b) = quiet_pair();
    b.enter_for(|| {
        let operated = Operated::start(&b, "taken", &["--set", "capture.force_clsact=true"]);
        let foreign = Foreign::over_netmons(&b, "vb");
        let interface =
            || operated.json(&["status"])["interfaces"].as_array().unwrap().iter().find(|i| i["name"] == "vb").cloned();
        let failed = eventually("it is said not to be watched", || interface().filter(|i| i["status"] == "failed"));
        assert!(failed["error"].as_str().unwrap().contains("another filter"), "{failed}");
        assert!(ours(&b, "vb").is_empty(), "no hook alone");
        assert!(operated.says(&["status"]).contains("another filter"));
        foreign.detach();
        eventually("it is watched again", || interface().filter(|i| i["status"] == "watched"));
        eventually("by both hooks", || (ours(&b, "vb").len() == 2).then_some(()));
        drop(a);
    });
}

/// A reload fails if a program cannot be replaced.
#[test]
fn a_reload_fails_if_its_programs_find_no_place() {
    needs_root!();
    let (_a, b) = quiet_pair();
    b.enter_for(|| {
        let agent = Agent::start(&b, Config { clsact: true, ..watching(&["vb"]) });
        let change = |wanted: bool| {
            let key = Key::named("features.protocol_detection.enabled").unwrap();
            agent.handle.set(key, Some(Given::Text(wanted.to_string())))
        };
        let before = ids(&b, "vb");
        change(false).unwrap();
        let after = ids(&b, "vb");
        assert!(after.len() == 2 && after.iter().all(|id| !before.contains(id)), "{before:?} {after:?}");
        // The agent may notice before the new programs are loaded: the interface is not watched then, and has no old
        // programs. So the other program takes the place again whenever netmon has got it back.
        let (wanted, error) = (0..20)
            .find_map(|round| {
                let wanted = round % 2 == 0;
                let error = std::thread::scope(|scope| {
                    let changing = scope.spawn(|| change(wanted).err());
                    while !changing.is_finished() {
                        let there = || ours(&b, "vb").len();
                        eventually("netmon has it", || (there() == 2 || changing.is_finished()).then_some(()));
                        let foreign = Foreign::over_netmons(&b, "vb");
                        eventually("netmon gives up", || (there() == 0 || changing.is_finished()).then_some(()));
                        assert!(b.sh("tc filter show dev vb ingress").contains("foreign_ingress"), "theirs stays");
                        foreign.detach();
                    }
                    changing.join().unwrap()
                });
                Some((wanted, error?))
            })
            .expect("a reload that finds the place taken");
        let error = format!("{error:#}");
        assert!(error.contains("not everywhere") && error.contains("vb is not watched any more"), "{error}");
        assert_eq!(agent.handle.running().features.apps.is_empty(), !wanted, "the configuration is in force");
        eventually("it is watched again", || (ours(&b, "vb").len() == 2).then_some(()));
    });
}

/// If programs cannot be replaced, the obstacle is reported for each interface.
#[test]
fn programs_that_are_not_replaced_are_reported() {
    needs_root!();
    let (_a, b) = quiet_pair();
    b.enter_for(|| {
        let mut storage = MaybeUninit::uninit();
        let bpf = Bpf::load(&mut storage, &small()).unwrap();
        let mut attachments = bpf.attachments();
        let link = list_links().unwrap().into_iter().find(|link| link.name == "vb").unwrap();
        assert_eq!(attachments.attach(&link, true).unwrap(), Some(Mode::Clsact));
        assert!(attachments.look(usize::MAX).unwrap().is_empty(), "all is as it should be");
        let other = || Arc::new(bpf.loader().load(&small()).unwrap());
        assert!(attachments.replace(other()).unwrap().is_empty());
        let foreign = Foreign::over_netmons(&b, "vb");
        let failed = attachments.replace(other()).unwrap();
        assert_eq!(
            (failed.len(), failed[0].index, &*failed[0].name, &failed[0].lost),
            (1, link.index, "vb", &vec![Hook::Ingress])
        );
        assert!(failed[0].error.is_some() && !attachments.contains(link.index));
        assert_eq!(ours(&b, "vb").len(), 0, "nor is the other hook kept");
        foreign.detach();
    });
}

#[test]
fn coverage_covers_the_last_minute() {
    needs_root!();
    let (a, b) = quiet_pair();
    b.enter_for(|| {
        let agent = Agent::start(&b, watching(&["vb"]));
        send(&a, 10_000);
        let labels = &["interface=\"vb\"", "hook=\"ingress\""];
        let page = Page::get(&b, &agent, "/metrics");
        assert_eq!(page.sum("netmon_interface_coverage_ratio", labels), 1.0);
        let all = page.sum("netmon_interface_packets_total", labels);
        assert_eq!(page.sum("netmon_interface_packets_covered_total", labels), all);
        assert!(all >= 10_000.0);
        // Another program takes packets first.
        let place =
            if attach_mode() == Mode::Tcx { foreign::ChainPlace::TcxFirst } else { foreign::ChainPlace::Clsact(1) };
        let foreign = Foreign::attach(&b, "vb", place, Deed::End);
        send(&a, 5_000);
        let page = Page::get(&b, &agent, "/metrics");
        let now = page.sum("netmon_interface_packets_total", labels);
        assert!(now >= all + 5000.0);
        assert_eq!(page.sum("netmon_interface_packets_covered_total", labels), all);
        page.assert_well_formed();
        foreign.detach();
    });
}

/// The first program of a chain is netmon's.
#[test]
fn restored_programs_are_at_the_head() {
    needs_tcx!();
    let (_a, b) = quiet_pair();
    b.enter_for(|| {
        let _agent = Agent::start(&b, watching(&["vb"]));
        let foreign = Foreign::attach(&b, "vb", foreign::ChainPlace::TcxLast, Deed::Pass);
        assert_eq!(detach_links(&b, "vb", &[Hook::Ingress, Hook::Egress]), 2);
        eventually("both hooks are back", || (ours(&b, "vb").len() == 2).then_some(()));
        assert!(ours(&b, "vb").iter().all(|program| program.place == ChainPlace::Tcx(0)), "{:?}", ours(&b, "vb"));
        foreign.detach();
    });
}
