//! The interfaces of the host, and what becomes of their packets.

use crate::bpf::{Attachments, Link, Mode};
use crate::config::Choice;

/// An interface of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Interface index.
    pub index: u32,
    /// Its present name.
    pub name: String,
    /// Kind of interface: `physical`, `veth`, `bridge`.
    pub kind: String,
    /// What becomes of its packets.
    pub status: InterfaceStatus,
    /// What it had counted when it became known: packets received and sent.
    pub start: [u64; 2],
    /// Names of other programs that get its packets before netmon's, for ingress and egress.
    pub before: [Vec<String>; 2],
    /// Why it runs other programs than it should, if it does.
    pub outdated: Option<String>,
    /// It faces a workload: the other end is a pod's or a container's.
    pub workload: bool,
    /// It counts packets as the kernel passes them around, not as they are on the wire.
    pub counts_whole: bool,
}

/// What becomes of the packets of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceStatus {
    /// They are seen.
    Watched(Mode),
    /// They are left alone, on purpose.
    Left(Choice),
    /// They should be seen and cannot be, for this reason.
    Failed(String),
}

impl InterfaceStatus {
    /// As in labels.
    pub fn name(&self) -> &'static str {
        match self {
            InterfaceStatus::Watched(_) => Choice::Watch.name(),
            InterfaceStatus::Left(choice) => choice.name(),
            InterfaceStatus::Failed(_) => "failed",
        }
    }
}

impl Interface {
    /// `start` as for the field.
    pub fn new(link: &Link, status: InterfaceStatus, start: [u64; 2]) -> Interface {
        Interface {
            index: link.index,
            name: link.name.clone(),
            kind: link.kind.clone(),
            status,
            start,
            before: Default::default(),
            outdated: None,
            workload: link.workload,
            counts_whole: link.counts_whole(),
        }
    }

    /// Takes over how its programs are attached, and why they are not the ones they should be. Whether either has changed.
    pub fn look_at(&mut self, attachments: &Attachments) -> bool {
        let before = (self.status.clone(), self.outdated.clone());
        if let (InterfaceStatus::Watched(mode), Some(now)) = (&mut self.status, attachments.mode(self.index)) {
            *mode = now;
        }
        self.outdated = attachments.outdated(self.index).map(str::to_owned);
        before != (self.status.clone(), self.outdated.clone())
    }

    /// Whether something that others are given has changed.
    pub fn differs(&self, link: &Link, status: &InterfaceStatus) -> bool {
        self.name != link.name || self.status != *status || self.workload != link.workload
    }
}
