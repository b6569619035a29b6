//! What is known of the interfaces that a capture's packets come from.

use anyhow::{Result, bail};
use foldhash::HashMap;

use super::capture::{Capture, Packet};
use super::link::Link;
use crate::output::Naming;

/// Interfaces told apart at most.
const MOST: usize = 1 << 16;

/// The link of each interface that had a packet.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// By number in the capture.
    known: Vec<Option<State>>,
    /// What can be said of the interface of all flows.
    pub(super) naming: Naming,
    pub(super) places: Places,
    with_packets: usize,
    /// Packets that cannot be replayed.
    pub(super) skipped: u64,
    why: String,
}

/// Numbers for all interfaces that packets were seen at, from 1 on: those of the capture, and of each those that its
/// packets tell of. An interface that several sections of a capture have under one name, or without one in the same
/// place, is one.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By number in the capture.
    interfaces: Vec<u32>,
    named: HashMap<Name, u32>,
    numbers: HashMap<(u32, u32), u32>,
}

/// Of an interface of the capture: its name, or its place in its section.
type Name = (Option<String>, usize);

impl Places {
    /// The number of the packet's interface; `ifindex` is what the packet itself tells of it.
    pub(super) fn of(&mut self, packet: &Packet, ifindex: u32) -> u32 {
        let interface = self.interfaces.get(packet.interface).copied().unwrap_or(0);
        if let Some(&number) = self.numbers.get(&(interface, ifindex)) {
            return number;
        }
        let number = self.numbers.len() as u32 + 1;
        if self.numbers.len() >= MOST {
            return number; // one for all the others
        }
        self.numbers.insert((interface, ifindex), number);
        number
    }

    /// An interface of the capture has a packet.
    fn learn(&mut self, number: usize, name: Option<String>, in_section: usize) {
        let name = if name.is_some() { (name, 0) } else { (None, in_section) };
        let next = self.named.len() as u32 + 1;
        if self.interfaces.len() <= number {
            self.interfaces.resize(number + 1, 0);
        }
        self.interfaces[number] = *self.named.entry(name).or_insert(next);
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Usable(Link),
    Unknown,
}

impl Links {
    /// The link that the packet came by. `None`: its type is unknown; of several interfaces others may be known.
    pub(super) fn of(&mut self, capture: &Capture, packet: &Packet) -> Option<Link> {
        if self.known.len() <= packet.interface {
            self.known.resize(packet.interface + 1, None);
        }
        let state = match self.known[packet.interface] {
            Some(state) => state,
            None => self.learn(capture, packet),
        };
        match state {
            State::Usable(link) => Some(link),
            State::Unknown => {
                self.skipped += 1;
                None
            }
        }
    }

    fn learn(&mut self, capture: &Capture, packet: &Packet) -> State {
        let interface = &capture.interfaces()[packet.interface];
        let state = match Link::of(interface.link_type) {
            Ok(link) => {
                let tells = packet.outgoing.is_some() || link.tells_direction();
                let first = self.with_packets == 0;
                self.naming.directions = tells && (first || self.naming.directions);
                // A flow may have been seen at several.
                self.naming.interface = interface.name.clone().filter(|_| first);
                self.with_packets += 1;
                self.places.learn(packet.interface, interface.name.clone(), packet.interface - capture.earlier());
                State::Usable(link)
            }
            Err(error) => {
                self.why = error.to_string();
                State::Unknown
            }
        };
        self.known[packet.interface] = Some(state);
        state
    }

    /// Fails if no packet was of a known link type, though there were packets.
    pub(super) fn check(&self) -> Result<()> {
        if self.with_packets == 0 && self.skipped > 0 {
            bail!("{}", self.why);
        }
        if self.skipped > 0 {
            log::warn!("{} packets are not replayed: {}", self.skipped, self.why);
        }
        Ok(())
    }
}
