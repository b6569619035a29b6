//! Checks what the host must provide, and explains in one line what is missing.

use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use caps::CapSet;
use libbpf_rs::ErrorKind;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procfs::process::Process;

use super::namespaces::own_namespace;
use super::timens;

/// Linux capability numbers, include/uapi/linux/capability.h.
const CAP_NET_ADMIN: u64 = 12;
const CAP_SYS_ADMIN: u64 = 21;
const CAP_PERFMON: u64 = 38;
const CAP_BPF: u64 = 39;

/// Descriptors that the agent uses: programs, maps, sockets, clients; for each worker a ring and its wakeup.
const DESCRIPTORS: u64 = 160;
const DESCRIPTORS_A_WORKER: u64 = 8;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Checks that /proc is mounted and shows at least this process; nothing else of it is required.
///
/// # Errors
///
/// It is not, or does not.
pub fn check_proc() -> Result<()> {
    own_namespace()?;
    let own = Process::myself().and_then(|process| process.status().map(drop));
    own.context("read /proc/self/status: netmon needs /proc mounted, with its own processes in it")
}

/// Checks privileges and BTF before anything is changed. Other obstacles show when the programs are loaded.
///
/// # Errors
///
/// What is missing, and how to provide it.
pub fn check_host() -> Result<()> {
    check_proc()?;
    let effective = Process::myself().and_then(|p| p.status()).context("read /proc/self/status")?.capeff;
    let missing = missing_capabilities(effective);
    if !missing.is_empty() {
        bail!("no permission to load BPF programs: run as root (sudo netmon), or grant {}", missing.join(", "));
    }
    if !Path::new(BTF).exists() {
        bail!(
            "the kernel has no BTF ({BTF} is missing): netmon needs Linux 5.10 or newer with CONFIG_DEBUG_INFO_BTF=y"
        );
    }
    timens::offset_ns()?;
    if is_preempt_rt() && !has_preempt_disable() {
        bail!("this PREEMPT_RT kernel has no bpf_preempt_disable: netmon needs Linux 6.10 or newer there");
    }
    Ok(())
}

/// Makes the permitted capabilities of this process effective. In an image the file of the program carries capabilities that do not
/// take effect by themselves: if they did, the kernel would refuse to start it in a container whose bounding set lacks one of them,
/// without saying why.
pub fn raise_capabilities() {
    let raised = caps::read(None, CapSet::Permitted).and_then(|may| caps::set(None, CapSet::Effective, &may));
    // There is no log yet, and a missing capability is reported where it is needed.
    let _ = raised;
}

/// Raises the limit of open files to its hard limit. Each interface takes two descriptors, so the usual soft limit is reached at
/// about 500 interfaces.
///
/// # Errors
///
/// The limit is too low for what is needed in any case; running out later could fail anywhere.
pub fn allow_many_descriptors(workers: usize) -> Result<()> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    let raised = limits.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::debug!("the limit of open files stays as it is: {error}");
    }
    let least = DESCRIPTORS + DESCRIPTORS_A_WORKER * workers as u64;
    let may = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    ensure!(
        may >= least,
        "at most {may} files may be open, and netmon needs {least}: raise it (ulimit -n, LimitNOFILE= of systemd)"
    );
    Ok(())
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |cap: u64| effective & (1 << cap) != 0;
    // CAP_SYS_ADMIN includes the two that were split off from it in 5.8.
    let wanted = [
        ("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        ("CAP_PERFMON", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(CAP_NET_ADMIN)),
    ];
    wanted.into_iter().filter_map(|(name, held)| (!held).then_some(name)).collect()
}

/// Whether the kernel is built with PREEMPT_RT, on which softirqs preempt each other.
pub fn is_preempt_rt() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/version").is_ok_and(|version| version.contains("PREEMPT_RT"))
}

fn has_preempt_disable() -> bool {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols.lines().any(|line| line.ends_with(" bpf_preempt_disable"))
}

/// Adds to the kernel's error for a failed load what can be done about it.
pub(super) fn explain_load_error(error: libbpf_rs::Error) -> Error {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => {
            "the kernel forbids it: check for lockdown mode, a seccomp or LSM policy, and, before Linux 5.11, the locked-memory limit (CAP_SYS_RESOURCE raises it)"
        }
        ErrorKind::OutOfMemory => "not enough memory for the maps",
        _ => "netmon needs Linux 5.10 or newer; --log-level trace shows what the verifier says",
    };
    anyhow!(error).context(format!("load the BPF programs ({remedy})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_capabilities(0), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(1 << CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert!(missing_capabilities(1 << CAP_BPF | 1 << CAP_PERFMON | 1 << CAP_NET_ADMIN).is_empty());
    }
}
