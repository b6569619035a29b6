//! What is known of the interfaces that a capture's packets come from.

use anyhow::{Result, bail};

use super::capture::{Capture, Packet};
use super::link::Link;
use crate::output::Naming;

/// The link of each interface that had a packet.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// By number in the capture.
    known: Vec<Option<State>>,
    /// What can be said of the interface of all flows.
    pub(super) naming: Naming,
    with_packets: usize,
    /// Packets that cannot be replayed.
    pub(super) skipped: u64,
    why: String,
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
                // The programs see all packets at one interface: of several, none could be told.
                self.naming.interface = interface.name.clone().filter(|_| first);
                self.with_packets += 1;
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
