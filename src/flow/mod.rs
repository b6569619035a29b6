//! Flows: connections put together from the records of both directions. Pure: no I/O, no threads, and time is an argument.

mod app;
mod details;
mod events;
mod key;
mod naming;
mod nat;
mod network;
mod outcome;
mod party;
mod past;
mod quotes;
mod rates;
mod reuse;
mod roles;
mod sent;
mod slab;
mod state;
mod table;
mod wheel;

pub use details::{Details, Stat, Troubles};
pub use events::{Directory, FlowEvent, Observer, Observing, Quiet, Sink};
pub use key::{FlowKey, protocol_name};
pub use naming::{Named, Naming};
pub use nat::{Errors as NatErrors, Identity, Lookup, Nat, News, Tracked, Translations};
pub use network::{Network, Networks};
pub use outcome::{Outcome, Reason, Status};
pub use party::{Parties, Party};
pub use quotes::ErrorKind;
pub use rates::{Looked, Rate, Rates, Told};
pub use roles::Facing;
pub use sent::Sent;
pub use slab::Slab;
pub use state::State;
pub use table::{Counts, Limits, Table};

use std::sync::Arc;

use crate::bpf::{App, Moment, Record};
use details::Before;
use events::Marked;
use outcome::{TCP, Verdict, is_waiting, judge};
use roles::is_group;
use wheel::{Link, Linked};

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
/// Who the client is is known by the program's having seen who sent first.
const CLIENT_WAS_FIRST: u8 = 4;
/// The client's frames are sent to everybody.
const BROADCAST: u8 = 8;
/// Who opened it, which way, and what it speaks may still be settled by records that are on their way.
const YOUNG: u8 = 16;
/// Of each end: what it sent last was no longer than an alert of TLS.
const LAST_WORD: [u8; 2] = [32, 64];
/// It was seen in a network of its own.
const APART: u8 = 128;

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
    /// What it speaks, once that is known: what its ends started with, if they changed to another protocol.
    pub app: Option<App>,
    /// Times, and what is rare; most flows have none.
    pub details: Option<Box<Details>>,
    /// Who its ends are, in the order of the key, as far as that is known.
    pub parties: Option<Arc<Parties>>,
    /// What became of the question who its ends are.
    pub naming: Naming,
    /// Tells this flow from others that had its place in the table.
    generation: u32,
    /// Where it is on the wheel.
    link: Link,
    /// CLOSING, CLIENT_IS_KNOWN, CLIENT_WAS_FIRST, BROADCAST, YOUNG, LAST_WORD, APART.
    marks: u8,
}

/// The stamp that belongs to a packet of this tick, else the start of the tick. Where it starts is known to a tick, too.
fn precisely(stamp: Option<Moment>, tick_at_ns: u64, tick_ns: u64) -> (u64, bool) {
    let stamp = stamp.and_then(|stamp| stamp.within(tick_at_ns.saturating_sub(tick_ns), 3 * tick_ns));
    (stamp.unwrap_or(tick_at_ns), stamp.is_some())
}

impl<M> Linked for Marked<M> {
    fn link(&mut self) -> &mut Link {
        &mut self.flow.link
    }
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

    /// When it started, and whether that is known better than to the tick of the clock of its packets: a SYN has a stamp.
    pub fn start(&self, tick_ns: u64) -> (u64, bool) {
        precisely(self.details.as_ref().and_then(|details| details.opened), self.first_ns, tick_ns)
    }

    /// When its last packet was, likewise: FIN and RST have stamps. An acknowledgement of the FIN in the same tick has none.
    pub fn end(&self, tick_ns: u64) -> (u64, bool) {
        precisely(self.details.as_ref().and_then(|details| details.closed), self.last_ns(), tick_ns)
    }

    /// Packets of this network may be its own: the host's network carries those of all others.
    fn meets(&self, network: Network) -> bool {
        // Few flows are in another network than the host's: those that are know it beside the flow.
        let known = if self.has(APART) { self.details.as_ref().map_or(0, |details| details.network) } else { 0 };
        network == 0 || known == 0 || network == known
    }

    /// Its packets are of this network, or of all that the host's carries.
    fn is_in(&mut self, network: Network) {
        if network != 0 {
            self.mark(APART, true);
            self.details.get_or_insert_default().network = network;
        }
    }

    fn is_over(&self) -> bool {
        self.outcome.is_some() || self.has(CLOSING)
    }

    /// Nothing more comes of its connection but what is late, or an opening that was tried before.
    fn is_over_for_good(&self) -> bool {
        self.key.protocol == TCP && (judge(self) != Verdict::Open || is_waiting(self))
            || self.before().is_some_and(|before| before.over)
    }

    /// How its connection's last flow ended, where it goes on after a pause.
    fn before(&self) -> Option<Before> {
        self.details.as_ref()?.before
    }

    /// The outcome of its TCP connection is the same as that of an earlier flow of it: a connection counts once, however often it
    /// pauses.
    pub fn was_counted(&self) -> bool {
        self.key.protocol == TCP && self.before().is_some_and(|before| Some(before.outcome) == self.outcome)
    }

    /// The client sends to a group, or to everybody.
    fn is_to_a_group(&self) -> bool {
        self.has(BROADCAST) || is_group(&self.key.ends[usize::from(!self.client & 1)], self.key.v6)
    }

    fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    fn mark(&mut self, mark: u8, so: bool) {
        self.marks = if so { self.marks | mark } else { self.marks & !mark };
    }

    /// What this end sends last, as far as the record knows. To be asked before the record is added.
    fn note_last_word(&mut self, end: usize, record: &Record) {
        let short = record.sequence.short;
        // Of the same data, a CPU that did not see them says nothing.
        if self.sent[end].goes_on_in(record) || short && record.sequence.end == self.sent[end].end() {
            self.mark(LAST_WORD[end], short);
        }
    }

    /// This end's last word was a goodbye, of TLS: it waits for no answer, and nothing is lost if it does not arrive.
    fn said_goodbye(&self, end: usize) -> bool {
        let encrypted = self.app == Some(App::Tls) || self.app_next() == Some(App::Tls) || self.tls_version().is_some();
        encrypted && self.has(LAST_WORD[end])
    }

    /// What is counted of it is to wait: what it is to be counted as is not settled, and a counter cannot take back a guess.
    pub fn is_held(&self) -> bool {
        self.has(YOUNG) || self.naming == Naming::Awaited
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

    /// What its ends changed to from what they started with, in the same connection.
    pub fn app_next(&self) -> Option<App> {
        app::next(self.app, self.details.as_ref()?.app_later)
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
        self.details.as_ref()?.reset.map(|sender| u8::from(sender != self.client))
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
