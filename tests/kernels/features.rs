//! Optional features are found by trying them. Without one, the agent uses the next best alternative, and says so in
//! its log, in its metrics and in the doctor's report.

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

fn report_feature(feature: &str, is: &str) {
    found(&["feature", std::env::consts::ARCH, &series(), feature, is]);
}

/// The CPUs that are online, and the possible ones, for which the maps have room.
fn cpus() -> String {
    let there = std::thread::available_parallelism().unwrap();
    format!("{there}/{}", possible_cpus().unwrap())
}

/// One load for all checks, because the verifier is slow under emulation.
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
    report_feature("attach mode", attach_mode().name());
    report_feature("TCX", yes(tcx.is_ok()));
    report_feature("ring buffer", "yes");
    report_feature("kfunc bpf_preempt_disable", yes(bpf::has_kfunc("bpf_preempt_disable").unwrap()));
    report_feature("tp_btf", yes(takes_typed_tracepoints()));
    report_feature("JIT", yes(trial.jited));
    // The JIT compiler of Linux 5.10 gives up on long functions with many jumps, and then everything is interpreted.
    let wanted = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|text| text.trim() != "0");
    assert!(trial.jited || !wanted, "the programs are not compiled, though the kernel compiles others");
    report_feature("CPUs", &cpus());
    super::budget::check(&trial.verified);
}

/// Before Linux 5.11, maps and programs count as locked memory of the user. With CAP_SYS_RESOURCE the limit is raised;
/// without it, the remedy is named. No other missing feature is a failure.
#[test]
fn the_doctor_reports_missing_features() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let limited = |more: &[&str]| {
        let mut command = b.command("setpriv");
        command.args(more).args(["sh", "-ec", "ulimit -l 64; exec \"$0\" \"$@\"", NETMON]);
        checked(command).0
    };
    let mut report = limited(&["--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]);
    let counted = check(&report, "programs").status == Status::Fail;
    report_feature("locked memory", if counted { "limited" } else { "free" });
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

/// The tracing programs have the least room on the stack.
#[test]
fn the_programs_that_trace_load() {
    needs_root!();
    let options = Config::default().program_options(possible_cpus().unwrap());
    let mut storage = MaybeUninit::uninit();
    let bpf = Bpf::load(&mut storage, &options).unwrap();
    bpf.loader().load_tracing(&options, None).unwrap();
}
