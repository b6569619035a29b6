//! Finds the owners of a BPF program: the processes that hold it, or a link to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::printable::printable;

/// Processes by the ids of programs that they hold.
pub(super) struct Owners(BTreeMap<u32, Vec<String>>);

impl Owners {
    /// Reads the descriptors of all processes that netmon may inspect.
    pub(super) fn read() -> Owners {
        let mut found: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let processes = procfs::process::all_processes().into_iter().flatten().flatten();
        for process in processes {
            // A process that is gone holds nothing.
            let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
            for descriptor in descriptors.flatten() {
                let Some(program) = program_of(process.pid, &descriptor.path()) else { continue };
                // A process chooses its own name.
                let name = process.stat().map(|stat| printable(stat.comm.as_bytes())).unwrap_or_default();
                let owner = format!("{name} (pid {})", process.pid);
                let owners = found.entry(program).or_default();
                if !owners.contains(&owner) {
                    owners.push(owner);
                }
            }
        }
        Owners(found)
    }

    /// Describes in words who holds any of these programs.
    pub(super) fn describe(&self, programs: &[u32], loaded_by: Option<u32>) -> String {
        let uid = || loaded_by.map(|uid| format!(", loaded by user {uid}")).unwrap_or_default();
        let mut owners: Vec<&str> =
            programs.iter().filter_map(|id| self.0.get(id)).flatten().map(String::as_str).collect();
        owners.sort_unstable();
        owners.dedup();
        if owners.is_empty() {
            return format!("held by no process that is visible from here{}", uid());
        }
        format!("held by {}", owners.join(", "))
    }
}

/// Id of the program behind a descriptor: programs and links have it in their fdinfo.
fn program_of(pid: i32, descriptor: &Path) -> Option<u32> {
    let target = fs::read_link(descriptor).ok()?;
    let target = target.to_str()?;
    // "anon_inode:bpf-prog", "anon_inode:bpf_link"; brackets from some version on
    if !target.contains("bpf-prog") && !target.contains("bpf_link") && !target.contains("bpf-link") {
        return None;
    }
    let number = descriptor.file_name()?.to_str()?;
    id_in(&fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?)
}

fn id_in(fdinfo: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read() {
        assert_eq!(id_in("pos:\t0\nlink_type:\ttcx\nprog_tag:\t1f\nprog_id:\t213\nifindex:\t2\n"), Some(213));
        assert_eq!(id_in("pos:\t0\n"), None);
    }
}
