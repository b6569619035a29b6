//! Keeps track of the interfaces of this network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use super::facing::{self, InterfaceRoutes};
use super::links::{Link, read_links};
use super::netlink::{Arrival, Changes, Interrupted, QUEUE_BYTES};
use super::ring::Wakeup;
use super::route::Route;

/// Pause before a list that could not be read completely is requested again.
const AGAIN: Duration = Duration::from_secs(1);

const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// The current interfaces, kept up to date by the changes the kernel reports.
#[derive(Debug)]
pub struct LinkMonitor {
    changes: Changes<Route>,
    links: BTreeMap<u32, Link>,
    /// Indexes of removed interfaces; they may already be in use again.
    removed: Vec<u32>,
    /// Where the interfaces lead; `None`: to be read when that matters.
    places: Option<InterfaceRoutes>,
    stripped: BTreeSet<u32>,
    /// A list could not be read completely.
    incomplete: bool,
}

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Something about the interfaces has changed.
    Changed,
    /// Nothing has changed.
    Same,
    /// The wait was ended from outside.
    Ended,
}

impl LinkMonitor {
    /// Reads all interfaces; from then on no change is missed.
    ///
    /// # Errors
    ///
    /// The kernel refuses the socket or a list.
    pub fn new() -> Result<LinkMonitor> {
        let changes = Changes::of(&GROUPS, &[], QUEUE_BYTES)?;
        let mut monitor = LinkMonitor {
            changes,
            links: BTreeMap::new(),
            removed: Vec::new(),
            places: None,
            stripped: BTreeSet::new(),
            incomplete: false,
        };
        monitor.read_anew()?;
        Ok(monitor)
    }

    /// The interfaces by index.
    pub fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// The addresses of this host; none unless it has a bridge or an end of a pair, because otherwise they do not matter.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + Clone + '_ {
        self.places.iter().flat_map(|places| places.own.iter().copied())
    }

    /// Indexes of the interfaces removed since the last call; another interface may already have the same index.
    pub fn take_removed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.removed)
    }

    /// Indexes of the interfaces from which a filter or queueing discipline was removed since the last call.
    pub fn take_stripped(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.stripped)
    }

    /// Sleeps until something changes, `timeout` is over or `wakeup` is raised, and brings the interfaces up to date.
    ///
    /// # Errors
    ///
    /// The kernel refuses to wait, or a list other than temporarily.
    pub fn wait(&mut self, timeout: Duration, wakeup: &Wakeup) -> Result<Wait> {
        let timeout = if self.incomplete { timeout.min(AGAIN) } else { timeout };
        if self.changes.wait(timeout, wakeup)? == Arrival::Ended {
            return Ok(Wait::Ended);
        }
        let LinkMonitor { links, removed, places, stripped, .. } = self;
        let mut changed = false;
        let whole = self.changes.read(|Route(message)| {
            if facing::concerns_places(&message) {
                *places = None;
                changed = true;
            }
            changed |= apply(links, removed, stripped, message);
        })?;
        if !whole {
            log::info!("more interface changes than the kernel could queue: reading all interfaces again");
            self.places = None;
        }
        if !whole || self.incomplete {
            self.read_anew()?;
            return Ok(Wait::Changed);
        }
        if changed {
            let judged = facing::judge_all(&mut self.links, &mut self.places);
            self.whole_or_again(judged)?;
        }
        Ok(if changed { Wait::Changed } else { Wait::Same })
    }

    fn read_anew(&mut self) -> Result<()> {
        let read = self.read_all();
        self.whole_or_again(read)
    }

    /// Keeps what is known if a list could not be read completely: until it can, changes still arrive one by one.
    fn whole_or_again(&mut self, read: Result<()>) -> Result<()> {
        self.incomplete = read.as_ref().is_err_and(|error| error.is::<Interrupted>());
        match read {
            Err(error) if self.incomplete => {
                log::warn!("{error:#}: trying again in a second");
                Ok(())
            }
            read => read,
        }
    }

    fn read_all(&mut self) -> Result<()> {
        let links: BTreeMap<u32, Link> = read_links()?.into_iter().map(|link| (link.index, link)).collect();
        self.removed.extend(self.links.keys().filter(|index| !links.contains_key(index)));
        self.links = links;
        facing::judge_all(&mut self.links, &mut self.places)
    }
}

/// Applies a change; true if the interfaces differ afterwards.
fn apply(
    links: &mut BTreeMap<u32, Link>,
    removed: &mut Vec<u32>,
    stripped: &mut BTreeSet<u32>,
    message: RouteNetlinkMessage,
) -> bool {
    match message {
        // Bridges report their ports in messages of the same type: a port is "deleted" when it leaves the bridge.
        RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
            if message.header.interface_family != AddressFamily::Unspec =>
        {
            false
        }
        RouteNetlinkMessage::NewLink(message) => {
            let Some(mut link) = Link::of(&message) else { return false };
            let known = links.get(&link.index);
            link.workload = known.is_some_and(|known| known.workload);
            link.addressed = known.is_some_and(|known| known.addressed);
            let differs = known != Some(&link);
            links.insert(link.index, link);
            differs
        }
        RouteNetlinkMessage::DelLink(message) => {
            removed.push(message.header.index);
            links.remove(&message.header.index).is_some()
        }
        RouteNetlinkMessage::DelTrafficFilter(message) | RouteNetlinkMessage::DelQueueDiscipline(message) => {
            stripped.extend(u32::try_from(message.header.index));
            false
        }
        _ => false,
    }
}
