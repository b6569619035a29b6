//! The network namespaces of the host, which include those of its pods and containers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::printable::printable;

/// Where `ip netns` and container runtimes keep the names of namespaces.
const NAMED: &str = "/run/netns";
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its inode number, which identifies it among existing namespaces.
    pub inode: u64,
    /// Its name, or `pid-` and the id of a process in it.
    pub name: String,
    path: PathBuf,
}

/// All namespaces except that of the calling thread, by inode: those with a name, and those that a process is in.
///
/// # Errors
///
/// The calling thread's own namespace cannot be read.
pub fn list_namespaces() -> Result<BTreeMap<u64, Namespace>> {
    let own = own()?;
    let mut found = BTreeMap::new();
    let mut add = |path: PathBuf, name: String| {
        // It may have gone meanwhile. A name is a plain file until a namespace is mounted on it, and may remain one.
        let there = fs::metadata(&path).ok().filter(|file| file.dev() == own.dev() && file.ino() != own.ino());
        if let Some(inode) = there.map(|file| file.ino()) {
            found.entry(inode).or_insert(Namespace { inode, name, path });
        }
    };
    for name in names(Path::new(NAMED)) {
        add(Path::new(NAMED).join(&name), printable(name.as_bytes()));
    }
    for process in names(Path::new("/proc")).filter(|name| name.as_bytes().iter().all(u8::is_ascii_digit)) {
        add(Path::new("/proc").join(&process).join("ns/net"), format!("pid-{}", process.display()));
    }
    Ok(found)
}

/// Names in a directory; none if it does not exist.
fn names(directory: &Path) -> impl Iterator<Item = OsString> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name())
}

/// The inode number of the calling thread's network namespace.
pub(super) fn own_namespace() -> Result<u64> {
    Ok(own()?.ino())
}

fn own() -> Result<Metadata> {
    fs::metadata(OWN).with_context(|| {
        format!(
            "read which network namespace this is ({OWN}): netmon needs /proc mounted, with its own processes in it"
        )
    })
}

impl Namespace {
    /// Runs `act` in the namespace; `None` if that has gone. Afterwards the calling thread is back in its own namespace.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered, or the thread cannot return; in the latter case it must not continue.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> Result<Option<T>> {
        let home = File::open(OWN).context("open the own network namespace")?;
        let Some(there) = self.open(own()?.dev())? else { return Ok(None) };
        setns(&there, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter the network namespace {} (CAP_SYS_ADMIN is needed)", self.name))?;
        // Closed early so as not to keep it alive: a NIC in it returns to the host when its last process ends.
        drop(there);
        let value = act();
        setns(&home, CloneFlags::CLONE_NEWNET).context("return to the own network namespace")?;
        Ok(Some(value))
    }

    /// Opens the namespace by its path, or by another process or name if that one has gone.
    fn open(&self, device: u64) -> Result<Option<File>> {
        let file_at = |path: &Path| {
            let file = File::open(path).ok()?;
            file.metadata().is_ok_and(|file| file.dev() == device && file.ino() == self.inode).then_some(file)
        };
        if let Some(file) = file_at(&self.path) {
            return Ok(Some(file));
        }
        Ok(list_namespaces()?.get(&self.inode).and_then(|other| file_at(&other.path)))
    }
}
