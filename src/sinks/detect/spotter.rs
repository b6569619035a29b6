//! Spots what the judge may want among the events of one shard's flows.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::contact::{Contact, Failure, Probe, Service, What};
use super::floods::Opening;
use super::tally::Attempt;
use super::{BATCH, Detection, Seen};
use crate::bpf::Record;
use crate::flow::{Flow, FlowEvent, Outcome, Reason, Sink};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// What is handed on waits this long at the most.
const HAND_ON_NS: u64 = 100_000_000;
/// What has answered or was spoken is said again after this.
const AGAIN_NS: u64 = 240_000_000_000;
/// Places for what was said lately.
const SAID: usize = 4096;
/// A connection that lasts this long need not end before it is known what it speaks: STARTTLS would have come.
const SPEAKS_NS: u64 = 30_000_000_000;
/// A dialogue with a login takes no longer.
const DIALOGUE_NS: u64 = 60_000_000_000;

/// What was spotted of a flow already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks(u8);

impl Marks {
    const OPENED: u8 = 1;
    const SYN_ACK: u8 = 2;
    const COMPLETED: u8 = 4;
    const ANSWERED: u8 = 8;
    const SPOKE: u8 = 16;
    const PROBED: u8 = 32;

    /// Those of six bits.
    pub(in crate::sinks) fn of(bits: u8) -> Marks {
        Marks(bits)
    }

    /// Six bits.
    pub(in crate::sinks) fn bits(self) -> u8 {
        self.0
    }

    /// True the first time.
    fn first(&mut self, mark: u8) -> bool {
        let first = self.0 & mark == 0;
        self.0 |= mark;
        first
    }

    fn has(self, mark: u8) -> bool {
        self.0 & mark == mark
    }
}

/// Spots contacts in one shard.
#[derive(Debug)]
pub struct Spotter {
    detection: Arc<Detection>,
    waiting: Vec<Contact>,
    opening: Opening,
    /// When something was handed on last, and when the connections that were opened.
    handed_on_ns: [u64; 2],
    /// Hashes of what was said lately, with the time; allocated once something is said.
    said: Vec<(u32, u32)>,
    hasher: RandomState,
}

impl Spotter {
    /// For one shard.
    pub fn new(detection: Arc<Detection>) -> Spotter {
        Spotter {
            detection,
            waiting: Vec::new(),
            opening: Opening::default(),
            handed_on_ns: [0; 2],
            said: Vec::new(),
            hasher: RandomState::default(),
        }
    }

    /// True while somebody judges.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.detection.is_on()
    }

    fn push(&mut self, contact: Contact) {
        self.waiting.push(contact);
        if self.waiting.len() >= BATCH {
            self.hand_on();
        }
    }

    fn hand_on(&mut self) {
        self.detection.hand_on(Seen::Contacts(std::mem::take(&mut self.waiting)));
    }

    fn hand_on_opened(&mut self) {
        self.detection.hand_on(Seen::Opened(self.opening.take()));
    }

    /// Hands on what waits. To be called now and then.
    pub fn tick(&mut self, now_ns: u64) {
        if !self.is_on() {
            self.waiting = Vec::new();
            self.opening = Opening::default();
            self.said = Vec::new();
            return;
        }
        let [contacts_ns, opened_ns] = &mut self.handed_on_ns;
        if !self.waiting.is_empty() && now_ns.saturating_sub(*contacts_ns) >= HAND_ON_NS {
            *contacts_ns = now_ns;
            self.detection.hand_on(Seen::Contacts(std::mem::take(&mut self.waiting)));
        }
        if !self.opening.is_empty() && now_ns.saturating_sub(*opened_ns) >= 10 * HAND_ON_NS {
            *opened_ns = now_ns;
            self.hand_on_opened();
        }
    }

    /// True if this was not said lately: most flows repeat an earlier one between the same ends.
    fn is_news(&mut self, contact: &Contact) -> bool {
        let tag = match contact.what {
            What::Spoke(app, next) => 1 + app as u32 + 256 * next.map_or(0, |next| 1 + next as u32),
            _ => 0,
        };
        let Contact { source, target, protocol, port, at_ns, .. } = contact;
        let hash = self.hasher.hash_one((source, target, protocol, port, tag));
        if self.said.is_empty() {
            self.said = vec![(0, 0); SAID];
        }
        // In seconds, and never 0.
        let (check, second) = ((hash >> 32) as u32, (at_ns / 1_000_000_000) as u32 + 1);
        let said = &mut self.said[hash as usize % SAID];
        let known = said.0 == check && said.1 != 0 && second.saturating_sub(said.1) < (AGAIN_NS / 1_000_000_000) as u32;
        if !known {
            *said = (check, second);
        }
        !known
    }

    fn say(&mut self, contact: Contact) {
        if self.is_news(&contact) {
            self.push(contact);
        }
    }

    fn sent(&mut self, sender: usize, record: &Record, flow: &Flow, marks: &mut Marks) {
        let client = usize::from(flow.client & 1);
        if flow.protocol == TCP {
            self.sent_segment(sender, flow, marks);
        } else if !marks.has(Marks::ANSWERED) && flow.sent.iter().all(|sent| sent.packets > 0) {
            marks.first(Marks::ANSWERED);
            self.say(Contact::of(flow, client, What::Answered));
        }
        if let Some(app) = flow.app
            && !marks.has(Marks::SPOKE)
            && record.last_ns.saturating_sub(flow.first_ns) >= SPEAKS_NS
        {
            marks.first(Marks::SPOKE);
            self.say(Contact::of(flow, client, What::Spoke(app, flow.app_next())));
        }
    }

    fn sent_segment(&mut self, sender: usize, flow: &Flow, marks: &mut Marks) {
        if marks.has(Marks::COMPLETED | Marks::ANSWERED) {
            return;
        }
        let client = usize::from(flow.client & 1);
        let (from_client, from_server) = (flow.from_client(), flow.from_server());
        let server = flow.endpoint(1 - client);
        let to = || (server.ip(flow.v6()), server.port);
        if from_client.syn() {
            if marks.first(Marks::OPENED) {
                let attempt = || {
                    let contact = Contact::of(flow, client, What::Answered);
                    (Attempt::of(&contact, "half_open"), contact.target_party().cloned())
                };
                self.opening.opened(to(), flow.first_ns, attempt);
                if self.opening.is_full() {
                    self.hand_on_opened();
                }
            }
            if from_server.syn_ack() && marks.first(Marks::SYN_ACK) {
                self.opening.answered(to(), flow.first_ns);
            }
            // The sources of a flood are forged: only who goes on has been answered.
            if from_client.tcp_flags & ACK != 0 && from_server.packets > 0 && marks.first(Marks::COMPLETED) {
                self.opening.completed(to(), flow.first_ns);
                marks.first(Marks::ANSWERED);
                self.say(Contact::of(flow, client, What::Answered));
            }
        } else if from_client.tcp_flags & from_server.tcp_flags & ACK != 0 {
            // It was open before netmon saw it.
            marks.first(Marks::COMPLETED | Marks::ANSWERED);
            self.say(Contact::of(flow, client, What::Answered));
        }
        // Whoever sends a probe is its source, whichever end seems to be the client.
        let probe = Probe::of(flow.sent[sender].tcp_flags).filter(|_| flow.endpoint(0).port != 0);
        if let Some(probe) = probe.filter(|_| marks.first(Marks::PROBED)) {
            self.push(Contact::of(flow, sender, What::Stealth(probe)));
        }
    }

    fn ended(&mut self, outcome: Outcome, flow: &Flow, marks: &mut Marks) {
        // A connection that pauses ends once.
        if flow.was_counted() || flow.is_to_a_group() {
            return;
        }
        let client = usize::from(flow.client & 1);
        let failure = match outcome.reason() {
            Some(Reason::Refused) => Some(Failure::Refused),
            Some(Reason::Timeout) => Some(Failure::Timeout),
            Some(Reason::Unreachable) => Some(Failure::Unreachable),
            _ => None,
        };
        if failure == Some(Failure::Refused) && marks.has(Marks::OPENED) && marks.first(Marks::COMPLETED) {
            let server = flow.endpoint(1 - client);
            self.opening.completed((server.ip(flow.v6()), server.port), flow.first_ns);
        }
        let failure = failure.filter(|failure| match flow.protocol {
            // A port that is open has not failed.
            TCP => flow.from_client().syn() && !flow.from_server().syn_ack(),
            // Other datagrams need no answer.
            UDP => *failure == Failure::Refused,
            ICMP | ICMPV6 => true,
            _ => false,
        });
        if let Some(failure) = failure {
            self.push(Contact::of(flow, client, What::Failed(failure)));
        }
        if let Some((service, bytes)) = dialogue(flow) {
            self.push(Contact::of(flow, client, What::Dialogue(service, bytes)));
        }
        if let Some(app) = flow.app.filter(|_| marks.first(Marks::SPOKE)) {
            self.say(Contact::of(flow, client, What::Spoke(app, flow.app_next())));
        }
    }
}

/// The service, and the bytes of payload that it sent, if the flow is a short dialogue in which somebody may have tried to log in:
/// both ends said something, but not much.
fn dialogue(flow: &Flow) -> Option<(Service, u64)> {
    let (client, server) = (flow.from_client(), flow.from_server());
    let both_speak = client.tcp_flags & server.tcp_flags & PSH != 0;
    if flow.protocol != TCP
        || !client.syn()
        || !both_speak
        || flow.last_ns().saturating_sub(flow.first_ns) > DIALOGUE_NS
    {
        return None;
    }
    let port = flow.endpoint(usize::from(!flow.client & 1)).port;
    let service = Service::of(flow.app, port)?;
    // Those of the link, of IP, and of TCP with timestamps: how many ACKs there are says nothing of what was said.
    let headers = if flow.v6() { 86 } else { 66 };
    let payload = server.bytes.saturating_sub(headers * server.packets);
    // Not known if no times are measured.
    let answers = flow.details.as_ref().map_or(0, |details| details.response.count);
    (payload <= service.most_bytes() && answers <= service.most_answers()).then_some((service, payload))
}

impl Sink for Spotter {
    type Mark = Marks;

    #[inline]
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, marks: &mut Marks) {
        if !self.is_on() {
            return;
        }
        match event {
            FlowEvent::Sent { sender, record } => self.sent(sender, record, flow, marks),
            FlowEvent::Ended(outcome) => self.ended(outcome, flow, marks),
            _ => {}
        }
    }
}
