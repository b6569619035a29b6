//! What only some flows have: times, TCP anomalies, errors. It is kept apart, so that other flows stay small.

use super::nat::Nat;
use super::quotes::ErrorKind;
use super::{CLIENT_IS_KNOWN, Flow, Network, Outcome};
use crate::bpf::{App, Facts, Measure, Moment, Sample};

/// A summary of durations, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Number of samples.
    pub count: u32,
    /// The shortest sample.
    pub min_ns: u64,
    /// The longest sample.
    pub max_ns: u64,
    /// The latest sample.
    pub last_ns: u64,
    sum_ns: u64,
}

impl Stat {
    fn add(&mut self, ns: u64) {
        self.min_ns = if self.count == 0 { ns } else { self.min_ns.min(ns) };
        self.max_ns = self.max_ns.max(ns);
        self.last_ns = ns;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.count = self.count.saturating_add(1);
    }

    /// The mean in nanoseconds; 0 without samples.
    pub fn mean_ns(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns as f64 / f64::from(self.count) }
    }
}

/// Anomalies in the TCP segments that one end sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// TCP segments with bytes that were sent before.
    pub retransmits: u32,
    /// TCP segments that were overtaken by later ones.
    pub out_of_order: u32,
    /// ACKs that repeat the one before.
    pub duplicate_acks: u32,
    /// Segments that announce a window of 0.
    pub zero_windows: u32,
    /// Segments with RST.
    pub resets: u32,
}

/// How the previous flow of the same connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Before {
    /// The outcome that was counted.
    pub(super) outcome: Outcome,
    /// True if the connection was over.
    pub(super) over: bool,
}

/// Measured times in nanoseconds, and other details that few flows have.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// From the first SYN to the ACK that ends the handshake.
    pub connect_ns: Option<u64>,
    /// From the SYN-ACK to the client's ACK.
    pub handshake_client_ns: Option<u64>,
    /// From the SYN to the server's SYN-ACK.
    pub handshake_server_ns: Option<u64>,
    /// From data to its ACK, in either direction; for ICMP, from request to reply.
    pub rtt: Stat,
    /// From the last byte of a request to the first of its response.
    pub response: Stat,
    /// Anomalies of each end's segments, in the order of the key.
    pub troubles: [Troubles; 2],
    /// TLS version, 1 to 4 for 1.0 to 1.3; 0 if it is not known.
    pub tls: u8,
    /// The first reported protocol that another one can change to: see `app`.
    pub(super) app_later: Option<App>,
    /// How the kernel's connection tracking translates its addresses.
    pub(super) nat: Option<Box<Nat>>,
    /// Time of its first SYN.
    pub(super) opened: Option<Moment>,
    /// Time of its latest FIN or RST.
    pub(super) closed: Option<Moment>,
    /// Type and code of the latest ICMP error about the flow.
    pub icmp_error: Option<(u8, u8)>,
    /// Time of the latest of these errors.
    pub(super) icmp_error_ns: u64,
    /// Kinds of ICMP errors that were counted, one bit each.
    pub(super) errors_counted: u16,
    /// Which end sent the first RST.
    pub(super) reset: Option<u8>,
    /// Time of that RST.
    reset_ns: u64,
    /// The shortest round trip to each end, measured from where it was seen: one end may be near and the other far. At
    /// most four seconds, the range of the type.
    nearest_ns: [Option<u32>; 2],
    /// Time of the record that reported the latest round trip.
    rtt_ns: u64,
    /// The network that it was seen in; 0 is the host's.
    pub(super) network: Network,
    /// What `response` would be if the other end were the client, as long as that is not certain.
    pub(super) if_other: Option<Box<Stat>>,
    /// How the connection's previous flow ended, if this one continues it after a pause.
    pub(super) before: Option<Before>,
}

/// A delayed ACK may take this long and longer (RFC 9293 3.8.6.3 allows 500 ms, Linux uses 40).
const DELAYED_ACK_NS: u64 = 20_000_000;
/// An ACK that waits for data to carry it is as late as the data. It counts as a round trip if the data came at once:
/// at most a quarter later than the shortest round trip, which allows for queues, plus the time that a program takes to
/// wake up.
const PROMPT_NS: u64 = 100_000;

impl Details {
    /// Applies a sample of `sender` from a record of `at_ns`; false if it says nothing about the flow.
    pub(super) fn measure(flow: &mut Flow, sender: usize, sample: Sample, at_ns: u64) -> bool {
        let client = usize::from(flow.client & 1);
        let (app, known) = (flow.app, flow.has(CLIENT_IS_KNOWN));
        let details = flow.details.get_or_insert_default();
        let ns = sample.ns;
        match sample.measure {
            Measure::HandshakeServer => {
                details.handshake_server_ns = Some(ns);
                details.record_nearest(sender, ns);
            }
            Measure::HandshakeClient => {
                details.handshake_client_ns = Some(ns);
                details.record_nearest(sender, ns);
            }
            Measure::Connect => details.connect_ns = Some(ns),
            Measure::RttLone if ns >= details.nearest(sender).map_or(u64::MAX, |least| least + DELAYED_ACK_NS) => {
                return false;
            }
            Measure::RttWaited if details.nearest(sender).is_none_or(|least| ns > least + least / 4 + PROMPT_NS) => {
                return false;
            }
            Measure::Rtt | Measure::RttLone | Measure::RttWaited | Measure::Echo => {
                details.record_nearest(sender, ns);
                // Records of both directions arrive in any order, so the latest sample need not arrive last.
                let latest = if at_ns >= details.rtt_ns { ns } else { details.rtt.last_ns };
                details.rtt.add(ns);
                details.rtt.last_ns = latest;
                details.rtt_ns = details.rtt_ns.max(at_ns);
            }
            // In QUIC, packets of both directions follow each other at any time: nothing marks a request.
            Measure::Response if app == Some(App::Quic) => return false,
            // How long a client takes before its next request is not a response time.
            Measure::Response if sender == client && known => return false,
            Measure::Response if sender == client => details.if_other.get_or_insert_default().add(ns),
            Measure::Response => details.response.add(ns),
        }
        true
    }

    fn nearest(&self, end: usize) -> Option<u64> {
        self.nearest_ns[end].map(u64::from)
    }

    /// Records a round-trip time to `end`; keeps the minimum.
    fn record_nearest(&mut self, end: usize, ns: u64) {
        let ns = u32::try_from(ns).unwrap_or(u32::MAX);
        self.nearest_ns[end] = Some(self.nearest_ns[end].map_or(ns, |least| least.min(ns)));
    }

    /// Swaps client and server.
    pub(super) fn swap_roles(&mut self) {
        let other = self.if_other.take().map(|other| *other).unwrap_or_default();
        let response = std::mem::replace(&mut self.response, other);
        self.if_other = (response.count > 0).then(|| Box::new(response));
    }

    pub(super) fn add(&mut self, sender: usize, facts: &Facts) {
        let troubles = &mut self.troubles[sender];
        troubles.retransmits += u32::from(facts.retransmits);
        troubles.out_of_order += u32::from(facts.out_of_order);
        troubles.duplicate_acks += u32::from(facts.duplicate_acks);
        troubles.zero_windows += u32::from(facts.zero_windows);
        troubles.resets += u32::from(facts.resets);
        self.tls = self.tls.max(facts.tls);
        self.opened = self.opened.or(facts.opened);
    }

    /// Records which end sent the first RST, by time: records arrive in any order.
    pub(super) fn reset_by(&mut self, sender: usize, at_ns: u64) {
        let sender = sender as u8;
        if self.reset.is_none_or(|first| (at_ns, sender) < (self.reset_ns, first)) {
            (self.reset, self.reset_ns) = (Some(sender), at_ns);
        }
    }

    /// Records an ICMP error; true if it is the flow's first of its kind.
    pub(super) fn quoted(&mut self, kind: ErrorKind, icmp_type: u8, icmp_code: u8, at_ns: u64) -> bool {
        self.icmp_error_ns = self.icmp_error_ns.max(at_ns);
        let bit = 1 << kind as u8;
        let first = self.errors_counted & bit == 0;
        self.errors_counted |= bit;
        if !kind.is_soft() || self.icmp_error.is_none() {
            self.icmp_error = Some((icmp_type, icmp_code));
        }
        first
    }
}
