//! Deleted pods, whose names are kept for a while because records of their last packets are still to come.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::super::UnixNs;
use super::super::index::Port;
use super::super::objects::Uid;
use super::Name;

/// How long names are kept. Records arrive within seconds, and earlier flows may only end by their idle timeout.
pub(super) const LINGER_NS: u64 = 120_000_000_000;
/// Most entries kept; beyond that the oldest are removed.
const MOST: usize = 20_000;

/// An address or port by which a pod is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Locator {
    Ip(IpAddr),
    HostPort(Port),
    HostPod(Name),
}

/// A pod and an address or port that it no longer has.
#[derive(Clone, Debug)]
pub(super) struct Departed {
    pub(super) uid: Uid,
    pub(super) locator: Locator,
}

/// Departed pods with the time they left, oldest first.
#[derive(Debug, Default)]
pub(super) struct Lingering(VecDeque<(UnixNs, Departed)>);

impl Lingering {
    pub(super) fn add(&mut self, uid: Uid, locator: Locator, now: UnixNs) {
        self.0.push_back((now, Departed { uid, locator }));
    }

    /// Removes and returns the oldest one, if it has been gone for [`LINGER_NS`] or there are too many.
    pub(super) fn expired(&mut self, now: UnixNs) -> Option<Departed> {
        let (since, _) = self.0.front()?;
        // The clock may have been set back.
        let fresh = now < since.saturating_add(LINGER_NS) && now.saturating_add(LINGER_NS) > *since;
        if fresh && self.0.len() <= MOST { None } else { self.0.pop_front().map(|(_, departed)| departed) }
    }
}
