//! Flows: connections put together from the records of both directions. Pure: no I/O, no threads, and time is an argument.

mod details;
mod key;
mod naming;
mod nat;
mod network;
mod observer;
mod outcome;
mod party;
mod quotes;
mod rates;
mod reuse;
mod roles;
mod slab;
mod state;
mod table;
mod wheel;

pub use details::{Details, Stat, Troubles};
pub use key::{FlowKey, protocol_name};
pub use naming::{Named, Naming};
pub use nat::{Identity, Nat, Tracked, Translations};
pub use network::{Network, Networks};
pub use observer::Observer;
pub use outcome::{Outcome, Reason, Status};
pub use party::{Parties, Party};
pub use quotes::ErrorKind;
pub use rates::{Looked, Rate, Rates, Told};
pub use roles::Facing;
pub use state::State;
pub use table::{Counts, Limits, Table};

use std::sync::Arc;

use crate::bpf::{App, Hook, Record};

/// One direction of a flow, as its owner saw it: the interface and hook that saw it first. What others see of the same
/// packets is duplicate.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Packets on the wire.
    pub packets: u64,
    /// Their bytes from the link-layer header on.
    pub bytes: u64,
    /// Last packet, CLOCK_MONOTONIC nanoseconds.
    pub last_ns: u64,
    /// Interface index of the owner; 0: nothing seen yet.
    pub ifindex: u32,
    /// Where the owner's addresses are unique.
    network: Network,
    /// VLAN id at the owner; 0: none.
    pub vlan: u16,
    /// OR of the TCP flags.
    pub tcp_flags: u8,
    /// How the owner sees the packets: EGRESS, INNER, TRANSLATED.
    view: u8,
    /// A SYN without ACK was sent.
    pub syn: bool,
    /// A SYN with ACK was sent.
    pub syn_ack: bool,
    /// Of the latest ICMP packet.
    pub icmp_type: u8,
    /// Of the latest ICMP packet.
    pub icmp_code: u8,
}

const EGRESS: u8 = 1;
/// In a tunnel's packet.
const INNER: u8 = 2;
/// Under translated addresses.
const TRANSLATED: u8 = 4;

fn view(identity: &Identity, record: &Record) -> u8 {
    let translated = identity.tracked.is_some_and(|tracked| tracked.translated);
    let bits = [(record.hook == Hook::Egress, EGRESS), (record.inner, INNER), (translated, TRANSLATED)];
    bits.into_iter().filter(|(is, _)| *is).fold(0, |view, (_, bit)| view | bit)
}

impl Sent {
    /// The owner's hook.
    pub fn hook(&self) -> Hook {
        if self.view & EGRESS != 0 { Hook::Egress } else { Hook::Ingress }
    }

    /// The owner found it in a tunnel.
    pub fn inner(&self) -> bool {
        self.view & INNER != 0
    }

    /// The record comes from where the owner is.
    fn is_owner(&self, identity: &Identity, record: &Record) -> bool {
        self.ifindex == record.ifindex && self.view == view(identity, record)
    }

    /// The owner saw it under translated addresses, and this is where the error came in: errors about many connections may have
    /// one flow there, and each of them another where it was translated.
    fn is_given_up_to(&self, identity: &Identity, record: &Record) -> bool {
        matches!(record.protocol, outcome::ICMP | outcome::ICMPV6)
            && self.view & TRANSLATED != 0
            && view(identity, record) & TRANSLATED == 0
    }

    fn own(&mut self, identity: &Identity, record: &Record, network: Network) {
        self.network = network;
        self.ifindex = record.ifindex;
        self.view = view(identity, record);
        self.vlan = record.vlan;
    }
}

/// Who opened the flow: the endpoint on this side of the interface, or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The remote end opened it.
    Ingress,
    /// It was opened on this node.
    Egress,
}

impl Direction {
    /// As in labels and output.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// A RST or an ICMP error was seen; how the flow ended shows when all records have come.
const CLOSING: u8 = 1;
/// Who the client is is known by evidence, not by a guess.
const CLIENT_IS_KNOWN: u8 = 2;

/// A flow: what two endpoints exchange over one protocol.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Both endpoints and the protocol.
    pub key: FlowKey,
    /// What each endpoint sent, in the order of the key.
    pub sent: [Sent; 2],
    /// Which endpoint of the key is the client.
    pub client: u8,
    /// Who opened it.
    pub direction: Direction,
    /// First packet of either end, CLOCK_MONOTONIC nanoseconds.
    pub first_ns: u64,
    /// How it ended; `None` while it lasts. Counted when it becomes known.
    pub outcome: Option<Outcome>,
    /// What it speaks, once that is known.
    pub app: Option<App>,
    /// Times, and what is rare; most flows have none.
    pub details: Option<Box<Details>>,
    /// Who its ends are, in the order of the key, as far as that is known.
    pub parties: Option<Arc<Parties>>,
    /// What the observer wants to find again, one a direction.
    pub tags: [u32; 2],
    /// What became of the question who its ends are.
    pub naming: Naming,
    /// Tells this flow from others that had its place in the table.
    generation: u32,
    /// CLOSING, CLIENT_IS_KNOWN.
    marks: u8,
}

impl Flow {
    /// Tells it from the others of its table, until four billion later.
    pub fn id(&self) -> u32 {
        self.generation
    }

    /// Time of the last packet.
    pub fn last_ns(&self) -> u64 {
        self.sent[0].last_ns.max(self.sent[1].last_ns)
    }

    /// Packets of this network may be its own: the host's network carries those of all others.
    fn meets(&self, network: Network) -> bool {
        network == 0 || self.sent.iter().all(|sent| sent.network == 0 || sent.network == network)
    }

    fn is_over(&self) -> bool {
        self.outcome.is_some() || self.has(CLOSING)
    }

    fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    fn mark(&mut self, mark: u8, so: bool) {
        self.marks = if so { self.marks | mark } else { self.marks & !mark };
    }

    /// Who the client is.
    pub fn client_party(&self) -> Option<&Arc<Party>> {
        self.party(usize::from(self.client & 1))
    }

    /// Who the server is.
    pub fn server_party(&self) -> Option<&Arc<Party>> {
        self.party(usize::from(!self.client & 1))
    }

    /// Who this end of the key is.
    pub fn party(&self, end: usize) -> Option<&Arc<Party>> {
        self.parties.as_ref()?[end].as_ref()
    }

    /// What its ends are called where its addresses are translated.
    pub fn nat(&self) -> Option<Nat> {
        self.details.as_ref()?.nat.as_deref().copied()
    }

    /// TLS version, once the server has chosen it.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self.details.as_ref()?.tls {
            1 => Some("1.0"),
            2 => Some("1.1"),
            3 => Some("1.2"),
            4 => Some("1.3"),
            _ => None,
        }
    }

    /// Who sent the first RST: 0 the client, 1 the server.
    pub fn reset_by(&self) -> Option<u8> {
        self.details.as_ref()?.reset.map(|(sender, _)| u8::from(sender != self.client))
    }

    /// What the client sent.
    pub fn from_client(&self) -> &Sent {
        &self.sent[usize::from(self.client & 1)]
    }

    /// What the server sent.
    pub fn from_server(&self) -> &Sent {
        &self.sent[usize::from(!self.client & 1)]
    }
}
