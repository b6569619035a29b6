//! Finds out what this kernel can do by trying it, without affecting anybody's packets.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use libbpf_rs::btf::{Btf, types::Func};
use nix::sched::{CloneFlags, unshare};

use super::attach::Attachments;
use super::chain::program_info;
use super::links::list_links;
use super::load::{Bpf, ProgramOptions};
use super::programs::{Programs, names_of_later};
use super::verifier::{Verified, VerifierLogs};
use super::{Hook, Mode, Ring};

/// The programs after a trial load and run.
#[derive(Debug)]
pub struct Trial {
    /// Time it took to load and run the programs; most of it is the verifier's.
    pub took: Duration,
    /// Kernel memory of their maps, in bytes.
    pub kernel_bytes: u64,
    /// Whether they run as machine code.
    pub jited: bool,
    /// The verifier's work on each program.
    pub verified: Vec<Verified>,
    programs: Arc<Programs>,
}

impl Trial {
    /// Loads the programs with these options and runs the sweep program.
    ///
    /// # Errors
    ///
    /// As for [`Bpf::load`].
    pub fn load(options: &ProgramOptions) -> Result<Trial> {
        let start = Instant::now();
        let mut storage = MaybeUninit::uninit();
        let mut logs = VerifierLogs::default();
        let later = names_of_later(options)?;
        let bpf = Bpf::load_after(&mut storage, options, |object| {
            // Includes programs that the agent loads only if they are needed.
            let is_later = |name: &OsStr| later.iter().any(|later| name == *later);
            let programs = object.progs_mut().filter(|program| is_later(program.name()));
            programs.for_each(|mut program| program.set_autoload(true));
            logs = VerifierLogs::of(object);
        })?;
        let programs = bpf.programs();
        let info = program_info(&programs.program(Hook::Ingress, true)?)?;
        Ok(Trial {
            took: start.elapsed(),
            kernel_bytes: bpf.kernel_bytes(),
            jited: info.jited_prog_len > 0,
            verified: logs.read()?,
            programs,
        })
    }

    /// Attaches the programs to the loopback device of a network namespace created for the purpose. The inner result says whether
    /// that works.
    ///
    /// # Errors
    ///
    /// It could not be tried: creating a namespace needs CAP_SYS_ADMIN.
    pub fn attach(&self, mode: Mode) -> Result<Result<()>> {
        let programs = Arc::clone(&self.programs);
        let thread = std::thread::Builder::new().name("nm-trial".to_owned()).spawn(move || {
            // The namespace belongs to this thread alone, and ends with it.
            unshare(CloneFlags::CLONE_NEWNET).context("create a network namespace to try it in")?;
            Ok(attach_there(programs, mode))
        });
        let thread = thread.context("start a thread")?;
        thread.join().map_err(|_| anyhow!("the trial panicked"))?
    }
}

fn attach_there(programs: Arc<Programs>, mode: Mode) -> Result<()> {
    let links = list_links()?;
    let link = links.iter().find(|link| link.loopback).context("a network namespace without loopback")?;
    let mut attachments = Attachments::new(programs);
    match attachments.attach(link, mode == Mode::Clsact)? {
        Some(used) if used == mode => Ok(()),
        _ => bail!("the kernel does not know it"),
    }
}

/// Tries to create a ring buffer.
///
/// # Errors
///
/// The kernel refuses it.
pub fn try_ring() -> Result<()> {
    Ring::create(0, 1).map(drop)
}

/// Whether the kernel has this function for BPF programs to call.
///
/// # Errors
///
/// The kernel's BTF cannot be read.
pub fn has_kfunc(name: &str) -> Result<bool> {
    let btf = Btf::from_vmlinux().context("read the kernel's BTF")?;
    Ok(btf.type_by_name::<Func<'_>>(name).is_some())
}
