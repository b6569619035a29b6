//! Pods that are gone, and whose names are kept for a while: records of their last packets are still to come.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::super::UnixNs;
use super::super::index::Port;
use super::super::objects::Uid;
use super::Name;

/// Records come within seconds, and flows that began before may end within the time after which they are idle.
pub(super) const LINGER_NS: u64 = 120_000_000_000;
/// The longest gone make room.
const MOST: usize = 20_000;

/// What a pod had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Ip(IpAddr),
    HostPort(Port),
    HostPod(Name),
}

/// A pod that is gone.
#[derive(Clone, Debug)]
pub(super) struct Left {
    pub(super) uid: Uid,
    pub(super) place: Place,
}

/// In the order in which they left.
#[derive(Debug, Default)]
pub(super) struct Lingering(VecDeque<(UnixNs, Left)>);

impl Lingering {
    pub(super) fn add(&mut self, uid: Uid, place: Place, now: UnixNs) {
        self.0.push_back((now, Left { uid, place }));
    }

    /// One that has been gone for long, or is one too many.
    pub(super) fn expired(&mut self, now: UnixNs) -> Option<Left> {
        let (since, _) = self.0.front()?;
        // The clock may have been set back.
        let fresh = now < since.saturating_add(LINGER_NS) && now.saturating_add(LINGER_NS) > *since;
        if fresh && self.0.len() <= MOST { None } else { self.0.pop_front().map(|(_, left)| left) }
    }
}
