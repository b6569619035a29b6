//! Keeps track of the interfaces of this network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use super::facing::{self, Places};
use super::links::{Link, read_links};
use super::netlink::{Arrival, Changes, Interrupted, QUEUE_BYTES};
use super::ring::Wakeup;
use super::route::Route;

/// A list that could not be read whole is asked for again after so long.
const AGAIN: Duration = Duration::from_secs(1);

const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// The interfaces as they are, by what the kernel tells of changes.
#[derive(Debug)]
pub struct LinkMonitor {
    changes: Changes<Route>,
    links: BTreeMap<u32, Link>,
    /// Were there, and may be again by now.
    removed: Vec<u32>,
    /// Where they lead; `None`: to be read when that matters.
    places: Option<Places>,
    stripped: BTreeSet<u32>,
    /// A list could not be read whole.
    incomplete: bool,
}

/// What a wait came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Something about the interfaces has changed.
    Changed,
    /// Nothing has.
    Same,
    /// The wait was ended from outside.
    Ended,
}

impl LinkMonitor {
    /// Knows all interfaces from the start, and misses no change from then on.
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

    /// By index.
    pub fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// The addresses of this host, as far as they matter: there is a bridge, or an end of a pair.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.places.iter().flat_map(|places| places.own.iter().copied())
    }

    /// Those that have gone since the last call; another may be there under the same index.
    pub fn take_removed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.removed)
    }

    /// Those from which somebody has taken a filter or a queueing discipline since the last call.
    pub fn take_stripped(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.stripped)
    }

    /// Sleeps until something changes, `timeout` is over or `wakeup` is raised; the interfaces are as they are then.
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
            log::info!("more changed at the interfaces than the kernel could tell of: reading all anew");
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

    /// What is known stays until all can be read: meanwhile changes are told one by one.
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

/// True if it makes a difference.
fn apply(
    links: &mut BTreeMap<u32, Link>,
    removed: &mut Vec<u32>,
    stripped: &mut BTreeSet<u32>,
    message: RouteNetlinkMessage,
) -> bool {
    match message {
        // Bridges tell of their ports in messages of the same type: one is "deleted" when it leaves the bridge.
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
