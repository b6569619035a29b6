//! What is optional is found by trying it; without it the agent does the next best thing, and says so in its log, in its
//! metrics and in what the doctor finds.

use std::mem::MaybeUninit;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use netmon::bpf::{self, Bpf, Mode, Trial, possible_cpus};
use netmon::config::Config;
use netmon::doctor::Status;

use super::{found, series};
use crate::doctor::{check, checked};
use crate::live::binary::NETMON;
use crate::live::net::quiet_pair;
use crate::needs_root;
use crate::support::kernel::attach_mode;

#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/traced.skel.rs"));
}

fn takes_typed_tracepoints() -> bool {
    let mut storage = MaybeUninit::uninit();
    let open = skel::TracedSkelBuilder::default().open(&mut storage).unwrap();
    open.load().is_ok()
}

fn tell(feature: &str, is: &str) {
    found(&["feature", std::env::consts::ARCH, &series(), feature, is]);
}

/// Those that are there, of those that may come, for which there is room in the maps.
fn cpus() -> String {
    let there = std::thread::available_parallelism().unwrap();
    format!("{there}/{}", possible_cpus().unwrap())
}

/// One load for all of it: emulated, the verifier takes its time.
#[test]
fn the_programs_load_attach_and_stay_within_the_budget() {
    needs_root!();
    bpf::set_log_sink();
    let options = Config::default().program_options(possible_cpus().unwrap());
    let trial = Trial::load(&options).unwrap();
    let tcx = trial.attach(Mode::Tcx).unwrap();
    assert_eq!(tcx.is_ok(), attach_mode() == Mode::Tcx, "{tcx:?}");
    trial.attach(Mode::Clsact).unwrap().expect("clsact is everywhere");
    bpf::try_ring().expect("the ring buffer is everywhere");
    let yes = |is: bool| if is { "yes" } else { "no" };
    tell("attach mode", attach_mode().name());
    tell("TCX", yes(tcx.is_ok()));
    tell("ring buffer", "yes");
    tell("kfunc bpf_preempt_disable", yes(bpf::has_kfunc("bpf_preempt_disable").unwrap()));
    tell("tp_btf", yes(takes_typed_tracepoints()));
    tell("JIT", yes(trial.jited));
    // Linux 5.10's compiler gives up on long functions with many jumps, and then all of it is interpreted.
    let wanted = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|text| text.trim() != "0");
    assert!(trial.jited || !wanted, "the programs are not compiled, though the kernel compiles others");
    tell("CPUs", &cpus());
    super::budget::check(&trial.verified);
}

/// Before Linux 5.11 maps and programs count as locked memory of the user. With CAP_SYS_RESOURCE the limit is raised; without it the
/// remedy is named. Nothing else of what is missing is a failure.
#[test]
fn the_doctor_tells_what_is_done_without() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let limited = |more: &[&str]| {
        let mut command = b.command("setpriv");
        command.args(more).args(["sh", "-ec", "ulimit -l 64; exec \"$0\" \"$@\"", NETMON]);
        checked(command).0
    };
    let mut report = limited(&["--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]);
    let counted = check(&report, "programs").status == Status::Fail;
    tell("locked memory", if counted { "limited" } else { "free" });
    if counted {
        assert!(check(&report, "programs").detail.contains("locked-memory limit"), "{report:#?}");
        let memory = check(&report, "locked memory");
        assert_eq!(memory.status, Status::Warn);
        assert!(memory.remedy.as_deref().unwrap().contains("ulimit -l unlimited"), "{memory:?}");
        report = limited(&[]);
    }
    for name in ["programs", "locked memory", "ring buffer", "BTF", "verifier", "attach mode"] {
        assert_eq!(check(&report, name).status, Status::Ok, "{report:#?}");
    }
    let attach = &check(&report, "attach mode").detail;
    assert!(attach.starts_with(attach_mode().name()), "{attach}");
    assert_eq!(attach.contains("no tcx"), attach_mode() == Mode::Clsact, "{attach}");
    let kfunc = &check(&report, "function bpf_preempt_disable").detail;
    assert_eq!(kfunc.starts_with("the kernel has it"), bpf::has_kfunc("bpf_preempt_disable").unwrap(), "{kfunc}");
}

/// They have the least room on the stack.
#[test]
fn the_programs_that_trace_load() {
    needs_root!();
    let options = Config::default().program_options(possible_cpus().unwrap());
    let mut storage = MaybeUninit::uninit();
    let bpf = Bpf::load(&mut storage, &options).unwrap();
    bpf.loader().load_tracing(&options, None).unwrap();
}
