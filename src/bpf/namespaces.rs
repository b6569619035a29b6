//! The network namespaces of the host: of its pods and containers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` and container runtimes keep names of namespaces.
const NAMED: &str = "/run/netns";
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Tells it from all others that there are.
    pub inode: u64,
    /// Its name, or that of a process in it.
    pub name: String,
    path: PathBuf,
}

/// All namespaces but that of the calling thread, by inode: those with a name, and those that a process is in.
pub fn list_namespaces() -> Result<BTreeMap<u64, Namespace>> {
    let own = fs::metadata(OWN).context("read which network namespace this is")?.ino();
    let mut found = BTreeMap::new();
    let mut add = |path: PathBuf, name: String| {
        // What has gone meanwhile is not there.
        if let Some(inode) = fs::metadata(&path).ok().map(|file| file.ino()).filter(|inode| *inode != own) {
            found.entry(inode).or_insert(Namespace { inode, name, path });
        }
    };
    for name in names(Path::new(NAMED)) {
        add(Path::new(NAMED).join(&name), name);
    }
    for process in names(Path::new("/proc")).filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        add(Path::new("/proc").join(&process).join("ns/net"), format!("pid-{process}"));
    }
    Ok(found)
}

/// What is in a directory; nothing if that is not there.
fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

impl Namespace {
    /// Does something in the namespace; `None` if that has gone. The calling thread is back where it was afterwards.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> Result<Option<T>> {
        let home = File::open(OWN).context("open the own network namespace")?;
        let Ok(there) = File::open(&self.path) else { return Ok(None) };
        if there.metadata().context("read which network namespace that is")?.ino() != self.inode {
            return Ok(None);
        }
        setns(&there, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter the network namespace {} (CAP_SYS_ADMIN is needed)", self.name))?;
        let value = act();
        setns(&home, CloneFlags::CLONE_NEWNET).context("return to the own network namespace")?;
        Ok(Some(value))
    }
}
