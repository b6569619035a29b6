//! Limits of control groups of the version that limits memory here, which differs between CI's machines and its virtual
//! machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netmon::doctor::Status;

use super::{check, checked};
use crate::live::binary::NETMON;
use crate::needs_root;
use crate::support::not_run;

/// A control group that is deleted with this value.
struct Group(PathBuf);

impl Group {
    /// Creates a limited group; returns its version and the group, or `None` if memory cannot be limited here.
    fn limited(bytes: u64) -> Option<(&'static str, Group)> {
        let root = Path::new("/sys/fs/cgroup");
        let unified = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let (version, parent, limit) = if unified.split_whitespace().any(|controller| controller == "memory") {
            fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
            ("v2", root.to_owned(), "memory.max")
        } else {
            ("v1", root.join("memory"), "memory.limit_in_bytes")
        };
        if !parent.join("cgroup.procs").exists() {
            return None;
        }
        let group = Group(parent.join(format!("nmt-{}-limited", std::process::id())));
        fs::create_dir(&group.0).unwrap();
        fs::write(group.0.join(limit), bytes.to_string()).unwrap();
        Some((version, group))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn the_memory_of_a_control_group() {
    needs_root!();
    let Some((version, group)) = Group::limited(64 << 20) else {
        not_run(crate::function_name!(), "no control group limits memory here");
        return;
    };
    let mut command = Command::new("sh");
    command.args(["-ec", "echo $$ >\"$0/cgroup.procs\"; exec \"$@\""]).arg(&group.0).arg(NETMON);
    let (report, _) = checked(command);
    let limits = check(&report, "cgroup limits");
    assert_eq!(limits.status, Status::Warn, "{limits:?}");
    assert!(limits.detail.starts_with(&format!("{version}: 64 MiB")), "{limits:?}");
    assert!(limits.remedy.is_some(), "{limits:?}");
}
