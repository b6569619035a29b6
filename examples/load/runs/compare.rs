//! What the agent saw of a load, beside what the sockets and the interface say.

use std::collections::BTreeMap;

use netmon::bpf::Tally;
use serde::Serialize;

use super::lab;
use super::ledger::{Truth, Way};
use super::part::Part;
use crate::support::net::Counters;
use crate::support::scrape::sum;

/// Packets and bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Frames.
    pub packets: u64,
    /// From the link-layer header on.
    pub bytes: u64,
}

impl From<Tally> for Amount {
    fn from(Tally { packets, bytes }: Tally) -> Amount {
        Amount { packets, bytes }
    }
}

/// One direction of a part.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WaySeen {
    /// Sent, by the sockets' account.
    pub sent: Amount,
    /// Arrived, by theirs.
    pub arrived: Amount,
    /// Counted by the agent.
    pub seen: Amount,
}

/// An answer without a socket, at most: Ethernet, IPv4, and TCP with the options of a SYN-ACK.
const ANSWER_BYTES: u64 = 74;

impl WaySeen {
    /// True if the agent, which is between the sockets, saw no less than arrived and no more than was sent, and than that many
    /// answers for which there was no socket.
    pub fn agrees(&self, answers: u64) -> bool {
        let within =
            |of: fn(Amount) -> u64, more: u64| (of(self.arrived)..=of(self.sent) + more).contains(&of(self.seen));
        within(|amount| amount.packets, answers) && within(|amount| amount.bytes, answers * ANSWER_BYTES)
    }
}

/// A part of the load.
#[derive(Clone, Debug, Serialize)]
pub struct PartSeen {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// How its connections were meant to end, and did: `ok`, or why they failed.
    pub outcome: &'static str,
    /// Connections whose clients saw that outcome.
    pub connections: u64,
    /// Flows that the agent counted, by its outcome.
    pub seen: BTreeMap<String, u64>,
    /// Flows that the agent counted with the server as their client.
    pub exchanged: u64,
    /// TCP segments that either end sent again.
    pub retransmitted: u64,
    /// Connections that did not go as they were meant to, and what happened to the first of them.
    pub astray: u64,
    /// See `astray`.
    pub first_error: Option<String>,
    /// From clients to servers.
    pub to_server: WaySeen,
    /// From servers to clients.
    pub to_client: WaySeen,
    /// The application protocol, if it has one that the agent recognises.
    pub app_protocol: Option<&'static str>,
    /// Bytes that the agent counted as that.
    pub recognised_bytes: Option<u64>,
}

impl PartSeen {
    /// Compares a part, by its place in the plan, with a page of metrics.
    fn new(place: usize, part: &'static Part, truth: &Truth, page: &str) -> PartSeen {
        let server = lab::server(place, part).ip().to_string();
        let protocol = format!("protocol=\"{}\"", part.protocol);
        let traffic = |end: &str, more: &str| {
            let labels = [protocol.as_str(), &format!("{end}=\"{server}\""), more];
            let of = |name: &str| sum(page, name, &labels) as u64;
            Amount { packets: of("netmon_packets_total"), bytes: of("netmon_bytes_total") }
        };
        let way = |way: &Way, end: &str| WaySeen {
            sent: way.sent.into(),
            arrived: way.arrived.into(),
            seen: traffic(end, ""),
        };
        let app = part.app.map(|app| format!("app_protocol=\"{app}\""));
        PartSeen {
            name: part.name,
            about: part.about,
            protocol: part.protocol,
            outcome: part.outcome,
            connections: truth.made,
            seen: outcomes(page, &protocol, &format!("dst_workload=\"{server}\"")),
            exchanged: sum(page, FLOWS, &[&protocol, &format!("src_workload=\"{server}\"")]) as u64,
            retransmitted: truth.retransmitted,
            astray: truth.astray,
            first_error: truth.first_error.clone(),
            to_server: way(&truth.to_server, "dst_ip"),
            to_client: way(&truth.to_client, "src_ip"),
            app_protocol: part.app,
            recognised_bytes: app.map(|app| traffic("dst_ip", &app).bytes + traffic("src_ip", &app).bytes),
        }
    }

    /// Answers that no socket counts, at most. A TCP segment that comes after the end of its connection, because it was sent again
    /// or another CPU was slower, is answered by the kernel: an ACK of TIME-WAIT, then a RST.
    pub fn answers(&self) -> u64 {
        let ways = [&self.to_server, &self.to_client];
        let late: u64 = ways.iter().map(|way| way.sent.packets.saturating_sub(way.arrived.packets)).sum();
        if self.protocol == "tcp" { late + self.retransmitted } else { 0 }
    }

    /// Both directions together: sent, seen.
    pub fn totals(&self) -> [Amount; 2] {
        let both = |of: fn(&WaySeen) -> Amount| {
            let (one, other) = (of(&self.to_server), of(&self.to_client));
            Amount { packets: one.packets + other.packets, bytes: one.bytes + other.bytes }
        };
        [both(|way| way.sent), both(|way| way.seen)]
    }

    /// Where the agent and the sockets disagree, in words.
    pub fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.astray > 0 {
            let error = self.first_error.as_deref().unwrap_or_default();
            found.push(format!("{} connections did not go as they were meant to; the first: {error}", self.astray));
        }
        let wanted = BTreeMap::from([(self.outcome.to_owned(), self.connections)]);
        let is_wanted = self.seen == wanted || self.connections == 0 && self.seen.is_empty();
        if !is_wanted || self.exchanged > 0 {
            let seen: Vec<String> = self.seen.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
            let mut seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
            if self.exchanged > 0 {
                seen += &format!(", and {} with the server as their client", self.exchanged);
            }
            found.push(format!("{} connections ended {}; the agent counted {seen}", self.connections, self.outcome));
        }
        for (name, way) in [("to the server", &self.to_server), ("to the client", &self.to_client)] {
            if !way.agrees(self.answers()) {
                let say = |amount: Amount| format!("{} packets, {} bytes", amount.packets, amount.bytes);
                let (sent, arrived, seen) = (say(way.sent), say(way.arrived), say(way.seen));
                found.push(format!("{name}: sent {sent}; arrived {arrived}; the agent counted {seen}"));
            }
        }
        if let (Some(app), Some(bytes)) = (self.app_protocol, self.recognised_bytes)
            && bytes != self.totals()[1].bytes
        {
            found.push(format!("{bytes} of {} bytes were recognised as {app}", self.totals()[1].bytes));
        }
        found.into_iter().map(|difference| format!("{}: {difference}", self.name)).collect()
    }
}

const FLOWS: &str = "netmon_flows_total";

/// Flows that the agent counted, by outcome.
fn outcomes(page: &str, protocol: &str, server: &str) -> BTreeMap<String, u64> {
    let count = |more: &str| sum(page, FLOWS, &[protocol, server, more]) as u64;
    let reasons = ["refused", "timeout", "reset_client", "reset_server", "unreachable"];
    let counts = reasons.map(|reason| (reason.to_owned(), count(&format!("reason=\"{reason}\""))));
    let ok = ("ok".to_owned(), count("status=\"ok\""));
    counts.into_iter().chain([ok]).filter(|(_, count)| *count > 0).collect()
}

/// The interface that the agent watched.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LinkSeen {
    /// Received and sent, by the interface's own counters.
    pub counted: Amount,
    /// Seen by the agent at its hooks.
    pub seen: Amount,
    /// Packets dropped at either end of the link.
    pub dropped: u64,
    /// Packets that the agent saw and reports as lost.
    pub lost: u64,
}

impl LinkSeen {
    /// True if the agent saw what the interface counted. It also sees a packet that is dropped when it leaves, which the interface
    /// does not count as sent.
    pub fn agrees(&self) -> bool {
        let more = |of: fn(Amount) -> u64| of(self.seen).checked_sub(of(self.counted));
        let (packets, bytes) = (more(|amount| amount.packets), more(|amount| amount.bytes));
        packets.is_some_and(|packets| packets <= self.dropped)
            && bytes.is_some_and(|bytes| self.dropped > 0 || bytes == 0)
    }
}

/// All of a load.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its parts, in the order of the plan.
    pub parts: Vec<PartSeen>,
    /// The interface.
    pub link: LinkSeen,
}

impl Seen {
    /// Compares with a page of metrics.
    pub fn new(parts: &'static [Part], truths: &[Truth], counters: &Counters, page: &str) -> Seen {
        let compared = parts.iter().zip(truths).enumerate();
        let parts = compared.map(|(place, (part, truth))| PartSeen::new(place, part, truth, page)).collect();
        let of = |name: &str| sum(page, name, &[&format!("interface=\"{}\"", lab::LINK)]) as u64;
        let mut counted = counters.rx;
        counted += counters.tx;
        let seen = Amount { packets: of("netmon_packets_seen_total"), bytes: of("netmon_bytes_seen_total") };
        let (dropped, lost) = (counters.dropped, of("netmon_packets_lost_total"));
        Seen { parts, link: LinkSeen { counted: counted.into(), seen, dropped, lost } }
    }

    /// Where the agent disagrees with the sockets or with the interface, in words; nothing if all is accounted for.
    pub fn differences(&self) -> Vec<String> {
        let LinkSeen { counted, seen, lost, .. } = self.link;
        let mut found: Vec<String> = self.parts.iter().flat_map(PartSeen::differences).collect();
        if !self.link.agrees() {
            let say = |amount: Amount| format!("{} packets, {} bytes", amount.packets, amount.bytes);
            found.push(format!("{}: the interface counted {}; the agent saw {}", lab::LINK, say(counted), say(seen)));
        }
        if lost > 0 {
            found.push(format!("{}: the agent lost {lost} packets", lab::LINK));
        }
        found
    }

    /// What changes while the agent still counts.
    pub fn progress(&self) -> (u64, u64) {
        let flows = self.parts.iter().map(|part| part.seen.values().sum::<u64>() + part.exchanged).sum();
        (flows, self.parts.iter().map(|part| part.totals()[1].packets).sum())
    }
}
