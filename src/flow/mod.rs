//! Flows: connections assembled from the records of both directions. Pure: no I/O, no threads, and time is an argument.

mod app;
mod details;
mod ends;
mod events;
mod index;
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
pub use naming::{NameState, Named};
pub use nat::{Errors as NatErrors, Identity, Lookup, Nat, News, Tracked, Translations};
pub use network::{Network, Networks};
pub use outcome::{Outcome, Reason, Status};
pub use party::{LabelValues, Parties, Party};
pub use quotes::ErrorKind;
pub use rates::{FlowTotals, Rate, Rates, Totals};
pub use roles::Facing;
pub use sent::Sent;
pub use slab::Slab;
pub use state::State;
pub use table::{Counts, Prepared, Table, TableLimits};

use std::net::IpAddr;
use std::sync::Arc;

use crate::bpf::{App, Endpoint, Moment, Record};
use details::Before;
use ends::Ends;
use events::Marked;
use outcome::{TCP, Verdict, acknowledged, is_waiting, judge};
use roles::is_group;
use wheel::{Link, Linked};

/// Which way the flow was opened, as seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The remote endpoint opened it.
    Ingress,
    /// An endpoint on this node opened it.
    Egress,
}

impl Direction {
    /// The name in labels and output.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// A RST or an ICMP error was seen; the outcome is decided when all records have arrived.
const CLOSING: u8 = 1;
/// The client is known from evidence, not from a guess.
const CLIENT_IS_KNOWN: u8 = 2;
/// The client is known because the BPF program saw who sent first.
const CLIENT_WAS_FIRST: u8 = 4;
/// The client sends to a broadcast link-layer address.
const BROADCAST: u8 = 8;
/// Records that are on their way may still change who opened it, in which direction, and what it speaks.
const YOUNG: u8 = 16;
/// One bit for each end: the last data it sent was no longer than a TLS alert.
const LAST_WORD: [u8; 2] = [32, 64];
/// It was seen in a network other than the host's.
const APART: u8 = 128;

/// A flow: the packets that two endpoints exchange over one protocol.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Both endpoints.
    ends: Ends,
    /// IP protocol number.
    pub protocol: u8,
    /// Traffic that each endpoint sent, in the order of the key.
    pub sent: [Sent; 2],
    /// Index of the client's endpoint in the key, 0 or 1.
    pub client: u8,
    /// Which way it was opened.
    pub direction: Direction,
    /// Time of the first packet of either end, in CLOCK_MONOTONIC nanoseconds.
    pub first_ns: u64,
    /// How it ended; `None` while it is open. It is counted when it becomes known.
    pub outcome: Option<Outcome>,
    /// Its application protocol, once that is known: the one its ends started with, if they changed to another.
    pub app: Option<App>,
    /// Measured times and other details; most flows have none.
    pub details: Option<Box<Details>>,
    /// Names of its ends, in the order of the key, as far as they are known.
    pub parties: Option<Arc<Parties>>,
    /// Progress of finding the names of its ends.
    pub naming: NameState,
    /// Distinguishes this flow from others that had its index in the table.
    generation: u32,
    /// Its position on the wheel.
    link: Link,
    /// CLOSING, CLIENT_IS_KNOWN, CLIENT_WAS_FIRST, BROADCAST, YOUNG, LAST_WORD, APART.
    marks: u8,
}

/// The stamp, if it belongs to a packet of this tick, else the time of the tick; and whether it is the stamp. The start
/// of a tick is itself known only to a tick.
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
    /// What identifies it among the flows of its network.
    pub fn key(&self) -> FlowKey {
        FlowKey { ends: [self.endpoint(0), self.endpoint(1)], protocol: self.protocol, v6: self.v6() }
    }

    /// True if this is its key.
    #[inline]
    fn is(&self, key: &FlowKey) -> bool {
        self.protocol == key.protocol && self.ends.are_of(key)
    }

    /// The endpoint with this index in the key, 0 or 1.
    pub fn endpoint(&self, end: usize) -> Endpoint {
        self.ends.at(end)
    }

    /// True for IPv6, false for IPv4.
    pub fn v6(&self) -> bool {
        self.ends.are_v6()
    }

    /// The address of this end.
    pub fn ip(&self, end: usize) -> IpAddr {
        self.endpoint(end).ip(self.v6())
    }

    /// A number that identifies it in its table. It wraps around after four billion flows.
    pub fn id(&self) -> u32 {
        self.generation
    }

    /// Time of the last packet of either end, in CLOCK_MONOTONIC nanoseconds.
    pub fn last_ns(&self) -> u64 {
        self.sent[0].last_ns.max(self.sent[1].last_ns)
    }

    /// When it started, in CLOCK_MONOTONIC nanoseconds, and whether that is more precise than a tick of the clock of
    /// its packets: a SYN has a stamp.
    pub fn start(&self, tick_ns: u64) -> (u64, bool) {
        precisely(self.details.as_ref().and_then(|details| details.opened), self.first_ns, tick_ns)
    }

    /// When its last packet was sent, likewise: FIN and RST have stamps. An acknowledgement of the FIN in the same tick
    /// has none.
    pub fn end(&self, tick_ns: u64) -> (u64, bool) {
        precisely(self.details.as_ref().and_then(|details| details.closed), self.last_ns(), tick_ns)
    }

    /// True if packets seen in this network may belong to it: the host's network carries those of all others.
    fn meets(&self, network: Network) -> bool {
        // Few flows are in another network than the host's: only those keep it, in their details.
        let known = if self.has(APART) { self.details.as_ref().map_or(0, |details| details.network) } else { 0 };
        network == 0 || known == 0 || network == known
    }

    /// Records the network of its packets; 0, the host's, may carry those of any.
    fn is_in(&mut self, network: Network) {
        if network != 0 {
            self.mark(APART, true);
            self.details.get_or_insert_default().network = network;
        }
    }

    /// Reads a field on each of its cache lines, so that it is in a cache.
    #[inline]
    fn warm(&self) {
        std::hint::black_box((self.first_ns, self.sent[0].packets, self.sent[1].packets, self.protocol));
    }

    fn is_over(&self) -> bool {
        self.outcome.is_some() || self.has(CLOSING)
    }

    /// Only late packets or repeated SYNs can still come from its connection.
    fn is_over_for_good(&self) -> bool {
        self.protocol == TCP && (judge(self) != Verdict::Open || is_waiting(self))
            || self.before().is_some_and(|before| before.over)
    }

    /// How the connection's previous flow ended, if this one continues it after a pause.
    fn before(&self) -> Option<Before> {
        self.details.as_ref()?.before
    }

    /// True if an earlier flow of the same TCP connection already had this outcome: a connection counts once, however
    /// often it pauses.
    pub fn was_counted(&self) -> bool {
        self.protocol == TCP && self.before().is_some_and(|before| Some(before.outcome) == self.outcome)
    }

    /// True if the client sends to a multicast or broadcast address.
    pub fn is_to_a_group(&self) -> bool {
        self.has(BROADCAST) || is_group(&self.endpoint(usize::from(!self.client & 1)), self.v6())
    }

    /// True for a TCP connection that goes on although only one end of it is seen: the other's packets take another path.
    pub fn is_one_sided(&self) -> bool {
        let (client, server) = (self.from_client(), self.from_server());
        let goes_on = if server.packets == 0 { acknowledged(client) } else { client.packets == 0 };
        self.protocol == TCP && goes_on && client.packets + server.packets > 1
    }

    fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    fn mark(&mut self, mark: u8, so: bool) {
        self.marks = if so { self.marks | mark } else { self.marks & !mark };
    }

    /// Updates whether the end's last data was short. Call it before the record is added.
    fn note_last_word(&mut self, end: usize, record: &Record) {
        let short = record.sequence.short;
        // About the same data, a record from a CPU that did not see them says nothing.
        if self.sent[end].goes_on_in(record) || short && record.sequence.end == self.sent[end].end() {
            self.mark(LAST_WORD[end], short);
        }
    }

    /// The last data of this end was a TLS alert, a goodbye: the end waits for no answer, and nothing is lost if the
    /// alert does not arrive.
    fn said_goodbye(&self, end: usize) -> bool {
        let encrypted = self.app == Some(App::Tls) || self.app_next() == Some(App::Tls) || self.tls_version().is_some();
        encrypted && self.has(LAST_WORD[end])
    }

    /// True if what is counted for it has to wait: its labels are not final, and a counter cannot take back a guess.
    pub fn is_held(&self) -> bool {
        self.has(YOUNG) || self.naming == NameState::Awaited
    }

    /// Who the client is, if that is known.
    pub fn client_party(&self) -> Option<&Arc<Party>> {
        self.party(usize::from(self.client & 1))
    }

    /// Who the server is, if that is known.
    pub fn server_party(&self) -> Option<&Arc<Party>> {
        self.party(usize::from(!self.client & 1))
    }

    /// Who the end with this index in the key is, if that is known.
    pub fn party(&self, end: usize) -> Option<&Arc<Party>> {
        self.parties.as_ref()?[end].as_ref()
    }

    /// The translated addresses of its ends, if connection tracking translates any.
    pub fn nat(&self) -> Option<Nat> {
        self.details.as_ref()?.nat.as_deref().copied()
    }

    /// The protocol that its ends changed to in the same connection, for example after STARTTLS.
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

    /// Who sent the first RST: 0 for the client, 1 for the server.
    pub fn reset_by(&self) -> Option<u8> {
        self.details.as_ref()?.reset.map(|sender| u8::from(sender != self.client))
    }

    /// Traffic that the client sent.
    pub fn from_client(&self) -> &Sent {
        &self.sent[usize::from(self.client & 1)]
    }

    /// Traffic that the server sent.
    pub fn from_server(&self) -> &Sent {
        &self.sent[usize::from(!self.client & 1)]
    }
}
