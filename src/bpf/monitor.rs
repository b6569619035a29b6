//! Keeps track of the interfaces of this network namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use super::facing::{self, Places};
use super::links::{Link, read_links};
use super::netlink::{Arrival, Changes, QUEUE_BYTES};
use super::ring::Wakeup;

const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// The interfaces as they are, by what the kernel tells of changes.
#[derive(Debug)]
pub struct LinkMonitor {
    changes: Changes<RouteNetlinkMessage>,
    links: BTreeMap<u32, Link>,
    /// Were there, and may be again by now.
    removed: Vec<u32>,
    /// Where they lead; `None`: to be read when that matters.
    places: Option<Places>,
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
        let mut monitor = LinkMonitor { changes, links: BTreeMap::new(), removed: Vec::new(), places: None };
        monitor.read_all()?;
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

    /// Sleeps until something changes, `timeout` is over or `wakeup` is raised; the interfaces are as they are then.
    pub fn wait(&mut self, timeout: Duration, wakeup: &Wakeup) -> Result<Wait> {
        if self.changes.wait(timeout, wakeup)? == Arrival::Ended {
            return Ok(Wait::Ended);
        }
        let LinkMonitor { links, removed, places, .. } = self;
        let mut changed = false;
        let whole = self.changes.read(|message| {
            if facing::concerns_places(&message) {
                *places = None;
                changed = true;
            }
            changed |= apply(links, removed, message);
        })?;
        if !whole {
            log::info!("more changed at the interfaces than the kernel could tell of: reading all anew");
            self.places = None;
            self.read_all()?;
            return Ok(Wait::Changed);
        }
        if changed {
            facing::judge_all(&mut self.links, &mut self.places)?;
        }
        Ok(if changed { Wait::Changed } else { Wait::Same })
    }

    fn read_all(&mut self) -> Result<()> {
        let links: BTreeMap<u32, Link> = read_links()?.into_iter().map(|link| (link.index, link)).collect();
        self.removed.extend(self.links.keys().filter(|index| !links.contains_key(index)));
        self.links = links;
        facing::judge_all(&mut self.links, &mut self.places)
    }
}

/// True if it makes a difference.
fn apply(links: &mut BTreeMap<u32, Link>, removed: &mut Vec<u32>, message: RouteNetlinkMessage) -> bool {
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
        _ => false,
    }
}
