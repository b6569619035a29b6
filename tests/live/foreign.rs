//! Filters of others on the same hooks survive the agent, its stop and kill -9, and still run.

use std::mem::MaybeUninit;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::ptr::NonNull;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{AsRawLibbpf, Link, OpenObject, ProgramMut, TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};
use netmon::bpf::Mode;
use netmon::config::Config;

use super::agent::{Agent, watching};
use super::binary::Program;
use super::net::{index, quiet_pair};
use crate::support::kernel::attach_mode;
use crate::support::netns::Netns;
use crate::{needs_root, needs_tcx};

#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/foreign.skel.rs"));
}

enum Attached {
    Tcx(#[expect(dead_code, reason = "detaches when it goes")] Vec<Link>),
    Clsact(Vec<TcHook>),
}

/// What a foreign program does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It lets the next program in the chain decide.
    Pass,
    /// It ends the chain: the packet continues on its way.
    End,
    /// It drops the packet.
    Drop,
    /// It redirects incoming packets to this interface, or to its other end.
    Redirect { to: u32, peer: bool },
}

/// The place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainPlace {
    TcxFirst,
    TcxLast,
    /// A clsact filter with this priority.
    Clsact(u32),
}

/// Foreign programs on both hooks of an interface.
pub struct Foreign {
    skel: skel::ForeignSkel<'static>,
    attached: Attached,
}

impl Foreign {
    pub fn attach(ns: &Netns, link: &str, place: ChainPlace, deed: Deed) -> Foreign {
        let storage = Box::leak(Box::new(MaybeUninit::<OpenObject>::uninit()));
        let mut open = skel::ForeignSkelBuilder::default().open(storage).unwrap();
        let rodata = open.maps.rodata_data.as_deref_mut().unwrap();
        match deed {
            Deed::Pass => {}
            Deed::End => rodata.foreign_verdict = 0,
            Deed::Drop => rodata.foreign_verdict = 2,
            Deed::Redirect { to, peer } => {
                rodata.foreign_to = to;
                rodata.foreign_peer = peer;
            }
        }
        let skel = open.load().unwrap();
        let index = index(ns, link) as i32;
        // A program that drops or redirects does so on ingress only, so that answers pass.
        let ingress_only = !matches!(deed, Deed::Pass | Deed::End);
        let programs = [(&skel.progs.foreign_ingress, TC_INGRESS), (&skel.progs.foreign_egress, TC_EGRESS)];
        let programs = programs.into_iter().take(if ingress_only { 1 } else { 2 });
        // A skeleton stays on its thread, which moves to the namespace for the life of this value.
        let attached = match place {
            ChainPlace::TcxFirst | ChainPlace::TcxLast => Attached::Tcx(
                programs.map(|(program, _)| attach_tcx(program, index, place == ChainPlace::TcxFirst)).collect(),
            ),
            ChainPlace::Clsact(priority) => Attached::Clsact(
                programs
                    .map(|(program, point)| {
                        let mut hook = TcHookBuilder::new(program.as_fd())
                            .ifindex(index)
                            .handle(0xf0)
                            .priority(priority)
                            .hook(point);
                        hook.create().unwrap();
                        hook.attach().unwrap()
                    })
                    .collect(),
            ),
        };
        Foreign { skel, attached }
    }

    /// Replaces netmon's own filter: the same handle, the same priority.
    pub fn over_netmons(ns: &Netns, link: &str) -> Foreign {
        let storage = Box::leak(Box::new(MaybeUninit::<OpenObject>::uninit()));
        let skel = skel::ForeignSkelBuilder::default().open(storage).unwrap().load().unwrap();
        let mut hook = TcHookBuilder::new(skel.progs.foreign_ingress.as_fd())
            .ifindex(index(ns, link) as i32)
            .handle(0x6e6d)
            .priority(2)
            .replace(true)
            .hook(TC_INGRESS);
        hook.create().unwrap();
        let hook = hook.attach().unwrap();
        Foreign { skel, attached: Attached::Clsact(vec![hook]) }
    }

    /// Number of packets seen on ingress and on egress.
    pub fn seen(&self) -> [u64; 2] {
        self.skel.maps.bss_data.as_deref().unwrap().foreign_seen
    }

    /// Detaches it again.
    pub fn detach(self) {
        if let Attached::Clsact(hooks) = self.attached {
            hooks.into_iter().for_each(|mut hook| hook.detach().unwrap());
        }
    }
}

fn attach_tcx(program: &ProgramMut<'_>, index: i32, first: bool) -> Link {
    let options = libbpf_sys::bpf_tcx_opts {
        sz: size_of::<libbpf_sys::bpf_tcx_opts>() as _,
        flags: if first { libbpf_sys::BPF_F_BEFORE } else { 0 },
        ..Default::default()
    };
    // SAFETY: the program is loaded and fits the hook; the options outlive the call.
    let raw = unsafe { libbpf_sys::bpf_program__attach_tcx(program.as_libbpf_object().as_ptr(), index, &options) };
    let raw = NonNull::new(raw).expect("attach the foreign program");
    // SAFETY: the link has no other owner.
    unsafe { Link::from_ptr(raw) }
}

/// Sends a packet in each direction; every foreign filter must see both.
fn assert_alive(a: &Netns, b: &Netns, foreign: &[Foreign], when: &str) {
    let before: Vec<_> = foreign.iter().map(Foreign::seen).collect();
    let to: IpAddr = "10.9.0.2".parse().unwrap();
    let server = b.run(|| UdpSocket::bind((to, 0)).unwrap());
    server.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let client = a.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    client.set_read_timeout(Some(super::PATIENCE)).unwrap();
    client.send_to(b"ping", server.local_addr().unwrap()).unwrap();
    let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
    server.send_to(b"pong", from).unwrap();
    client.recv_from(&mut [0; 8]).unwrap();
    for (i, (filter, before)) in foreign.iter().zip(before).enumerate() {
        let after = filter.seen();
        assert!(
            after[0] > before[0] && after[1] > before[1],
            "foreign filter {i} is dead {when}: {before:?} {after:?}"
        );
    }
}

fn survive(tcx: bool) {
    let (a, b) = quiet_pair();
    b.enter_for(|| {
        // Before and after the agent's place in the chain.
        let foreign = if tcx {
            [ChainPlace::TcxFirst, ChainPlace::TcxLast].map(|place| Foreign::attach(&b, "vb", place, Deed::Pass))
        } else {
            [1, 7].map(|priority| Foreign::attach(&b, "vb", ChainPlace::Clsact(priority), Deed::Pass))
        };
        assert_alive(&a, &b, &foreign, "before any agent");
        for clsact in [false, true] {
            let agent = Agent::start(&b, Config { clsact, ..watching(&["vb"]) });
            assert_alive(&a, &b, &foreign, "beside the agent");
            let (report, _) = agent.stop();
            let sum = report.conservation();
            assert!(sum.holds() && sum.seen.packets >= 2, "the agent saw them too: {sum}");
            assert_alive(&a, &b, &foreign, "after the agent's stop");

            let mut program = Program::start(&b, &["--interface", "vb"], clsact);
            program.wait_for("ready");
            assert_alive(&a, &b, &foreign, "beside the program");
            program.kill();
            assert_alive(&a, &b, &foreign, "after kill -9");

            let agent = Agent::start(&b, watching(&["vb"]));
            assert_alive(&a, &b, &foreign, "after a start that removed leftovers");
            agent.stop();
            assert_alive(&a, &b, &foreign, "at the end");
        }
        if !tcx {
            let shown = b.sh("tc filter show dev vb ingress; tc filter show dev vb egress");
            assert_eq!(shown.matches("handle 0xf0").count(), 4, "{shown}");
            assert_eq!(shown.matches("handle 0x6e6d").count(), 0, "{shown}");
            assert!(b.sh("tc qdisc show dev vb").contains("clsact"), "the qdisc is theirs too");
        }
    });
}

#[test]
fn tcx_programs() {
    needs_tcx!();
    survive(true);
}

#[test]
fn clsact_filters() {
    needs_root!();
    survive(false);
}

/// A foreign filter with netmon's handle and priority stays, and the agent reports what is in its way.
#[test]
fn a_filter_in_our_place() {
    needs_root!();
    let (a, b) = quiet_pair();
    b.enter_for(|| {
        let storage = Box::leak(Box::new(MaybeUninit::<OpenObject>::uninit()));
        let skel = skel::ForeignSkelBuilder::default().open(storage).unwrap().load().unwrap();
        let mut hook = TcHookBuilder::new(skel.progs.foreign_ingress.as_fd())
            .ifindex(index(&b, "vb") as i32)
            .handle(0x6e6d)
            .priority(2)
            .hook(TC_INGRESS);
        hook.create().unwrap();
        hook.attach().unwrap();
        let program = Program::start(&b, &["--interface", "vb"], true);
        let (status, _, lines) = program.end();
        assert_eq!(status.code(), Some(1));
        assert!(lines.last().unwrap().contains("another filter may hold these"), "{lines:#?}");
        assert!(b.sh("tc filter show dev vb ingress").contains("foreign_ingress"));
        if attach_mode() == Mode::Tcx {
            // With TCX, it does not need that place.
            let agent = Agent::start(&b, watching(&["vb"]));
            agent.stop();
            assert!(b.sh("tc filter show dev vb ingress").contains("foreign_ingress"));
        }
        drop(a);
    });
}
