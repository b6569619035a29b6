//! Checks BTF, maps, kernel functions and the BPF programs, which are loaded, run and attached where no traffic passes.

use super::{Check, Help};
use crate::bpf::{self, MOST_INSTRUCTIONS, Mode, Trial};
use crate::config::Config;

const BTF: &str = "/sys/kernel/btf/vmlinux";
const NEWER: &str = "a kernel of Linux 5.10 or newer with CONFIG_DEBUG_INFO_BTF=y (Debian: apt-get install linux-image-amd64, then reboot)";

/// The loaded programs, if they could be loaded, and the checks.
pub(super) fn check(config: &Config, help: Help) -> (Option<Trial>, Vec<Check>) {
    bpf::set_log_sink();
    let mut checks = vec![btf(help), ring(), preempt_disable(help)];
    let trial = bpf::possible_cpus().and_then(|cpus| Trial::load(&config.program_options(cpus)));
    match &trial {
        Ok(trial) => {
            let (took, kernel) = (trial.took.as_secs_f64() * 1e3, mib(trial.kernel_bytes));
            checks.push(Check::ok(
                "programs",
                format!("loaded and run in {took:.0} ms, {kernel:.1} MiB of kernel memory"),
            ));
            checks.push(verifier(trial));
            checks.push(jit(trial, help));
            checks.push(attach_mode(config, trial, help));
        }
        Err(error) => {
            let more = help.either("netmon --log-level trace", help.setting("log.level", "trace"));
            let remedy = help.either(
                format!("see the failed checks above; if there are none: {more}"),
                format!(
                    "see the failed checks above; if there are none, the seccomp profile forbids bpf(): use the component \
                     seccomp-unconfined or privileged; if that does not help: {more}"
                ),
            );
            checks.push(Check::fail("programs", format!("{error:#}"), remedy));
            for name in ["verifier", "JIT"] {
                checks.push(Check::unknown(name, "the programs cannot be loaded"));
            }
            checks.push(Check::unknown("attach mode", "the programs cannot be loaded"));
        }
    }
    (trial.ok(), checks)
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn btf(help: Help) -> Check {
    match std::fs::metadata(BTF) {
        Ok(file) => Check::ok("BTF", format!("{BTF}, {:.1} MiB", mib(file.len()))),
        Err(error) => Check::fail("BTF", format!("{BTF}: {error}"), help.on_host(NEWER)),
    }
}

fn ring() -> Check {
    match bpf::try_ring() {
        Ok(()) => Check::ok("ring buffer", "can be created"),
        Err(error) => Check::fail(
            "ring buffer",
            format!("{error:#}"),
            "if this is a matter of permissions, see the capabilities; else use Linux 5.10 or newer",
        ),
    }
}

/// On kernels where softirqs preempt each other, the agent starts only if it can disable preemption, whether it does or
/// not (`bpf::preempt`).
fn preempt_disable(help: Help) -> Check {
    const NAME: &str = "function bpf_preempt_disable";
    match (bpf::has_kfunc("bpf_preempt_disable"), bpf::is_preempt_rt()) {
        (Ok(true), _) => Check::ok(NAME, "the kernel has it"),
        (Ok(false), false) => Check::ok(NAME, "missing, but not needed: this is not a PREEMPT_RT kernel"),
        (Ok(false), true) => Check::fail(
            NAME,
            "missing, but needed: this is a PREEMPT_RT kernel",
            help.on_host("a PREEMPT_RT kernel of Linux 6.10 or newer"),
        ),
        (Err(error), _) => Check::unknown(NAME, &format!("{error:#}")),
    }
}

/// How close the programs come to the kernel's limit of instructions; each kernel counts differently.
fn verifier(trial: &Trial) -> Check {
    let said = trial.verified.iter().max_by_key(|verified| verified.instructions);
    let took: f64 = trial.verified.iter().map(|verified| verified.took.as_secs_f64()).sum();
    let most = said.map(|most| {
        let share = 100.0 * f64::from(most.instructions) / f64::from(MOST_INSTRUCTIONS);
        format!(
            "; at most {} instructions for one program ({}), {share:.0}% of the limit",
            most.instructions, most.program
        )
    });
    Check::ok("verifier", format!("took {:.0} ms for all programs{}", took * 1e3, most.unwrap_or_default()))
}

fn jit(trial: &Trial, help: Help) -> Check {
    if trial.jited {
        return Check::ok("JIT", "the programs run as machine code");
    }
    Check::warn(
        "JIT",
        "the programs are interpreted, which makes each packet more expensive",
        help.on_host("sysctl -w net.core.bpf_jit_enable=1"),
    )
}

fn attach_mode(config: &Config, trial: &Trial, help: Help) -> Check {
    const NAME: &str = "attach mode";
    let tried = |mode| trial.attach(mode);
    let tcx = match tried(Mode::Tcx) {
        Err(error) => return Check::unknown(NAME, &format!("{error:#}")),
        Ok(tcx) => tcx,
    };
    match tcx {
        Ok(()) if !config.clsact => return Check::ok(NAME, "tcx, at the head of the chain"),
        Ok(()) | Err(_) => {}
    }
    match (tried(Mode::Clsact), tcx) {
        (Ok(Ok(())), Ok(())) => Check::ok(NAME, "clsact, as configured; the kernel also has tcx"),
        (Ok(Ok(())), Err(_)) => Check::ok(
            NAME,
            "clsact: this kernel has no tcx (available from Linux 6.6); filters of priority 1 run first",
        ),
        (Ok(Err(clsact)), tcx) => {
            let tcx = tcx.err().map(|error| format!("tcx: {error:#}; ")).unwrap_or_default();
            Check::fail(NAME, format!("{tcx}clsact: {clsact:#}"), help.on_host("modprobe sch_ingress cls_bpf"))
        }
        (Err(error), _) => Check::unknown(NAME, &format!("{error:#}")),
    }
}
