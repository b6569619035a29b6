//! The interfaces that a capture's packets come from.

use anyhow::{Result, bail};
use foldhash::HashMap;

use super::capture::{Capture, Packet};
use super::link::Link;
use crate::line::LineContext;

/// Maximum number of interfaces that are told apart.
const MOST: usize = 1 << 16;

/// The link type of each interface that had a packet.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The state of each interface, by its index in the capture.
    known: Vec<Option<State>>,
    /// What is known about the interface of all flows.
    pub(super) context: LineContext,
    pub(super) places: InterfaceNumbers,
    with_packets: usize,
    /// Number of packets that cannot be replayed.
    pub(super) skipped: u64,
    why: String,
}

/// Numbers, from 1 on, for all interfaces that packets were seen at: the interfaces of the capture, and for each of
/// them those that its packets name. An interface that several sections of a capture have under one name, or without a
/// name in the same place, is one.
#[derive(Debug, Default)]
pub(super) struct InterfaceNumbers {
    /// A number for each interface, by its index in the capture.
    interfaces: Vec<u32>,
    named: HashMap<Name, u32>,
    numbers: HashMap<(u32, u32), u32>,
}

/// Identifies an interface of the capture: its name, or its place in its section.
type Name = (Option<String>, usize);

impl InterfaceNumbers {
    /// The number of the packet's interface; `ifindex` is the one that the packet itself names.
    pub(super) fn of(&mut self, packet: &Packet, ifindex: u32) -> u32 {
        let interface = self.interfaces.get(packet.interface).copied().unwrap_or(0);
        if let Some(&number) = self.numbers.get(&(interface, ifindex)) {
            return number;
        }
        let number = self.numbers.len() as u32 + 1;
        if self.numbers.len() >= MOST {
            return number; // one number for all others
        }
        self.numbers.insert((interface, ifindex), number);
        number
    }

    /// Adds an interface of the capture that has a packet.
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
    /// The link type of the packet. `None` if that is not supported; other interfaces of the capture may be.
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
                let tells = packet.outgoing.is_some() || link.has_direction();
                let first = self.with_packets == 0;
                self.context.directions = tells && (first || self.context.directions);
                // With several interfaces, a flow may have been seen at more than one.
                self.context.interface = interface.name.clone().filter(|_| first);
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

    /// Fails if there were packets, but none of a supported link type.
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
