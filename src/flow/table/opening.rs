//! How flows enter the table: who opened them, and what is remembered of their connection.

use super::{Table, seconds};
use crate::bpf::Record;
use crate::flow::ends::Ends;
use crate::flow::events::Marked;
use crate::flow::past::Past;
use crate::flow::wheel::Link;
use crate::flow::{
    BROADCAST, CLIENT_IS_KNOWN, CLIENT_WAS_FIRST, Direction, Flow, FlowEvent, Identity, NameState, Observer, roles,
};

impl<M: Default> Table<M> {
    /// Corrects who opened the flow, and in which direction, as far as this record shows. Counts under a wrong guess
    /// stay where they are.
    pub(super) fn correct_roles(
        &mut self,
        index: u32,
        identity: &Identity,
        record: &Record,
        observer: &mut impl Observer<Mark = M>,
    ) {
        let Some(marked) = self.flows.get_mut(index) else { return };
        let flow = &mut marked.flow;
        let sender = identity.sender;
        let known = flow.has(CLIENT_IS_KNOWN);
        let evidence = if known && !record.syn { None } else { roles::evidence(identity, record) };
        let client = roles::corrected(flow, evidence, sender, record);
        flow.mark(CLIENT_IS_KNOWN, known || evidence.is_some());
        if record.first && usize::from(client.map_or(flow.client, |client| client as u8)) == sender {
            flow.mark(CLIENT_WAS_FIRST, true);
        }
        if record.broadcast {
            flow.mark(BROADCAST, true);
        }
        let direction = if let Some(client) = client {
            flow.client = client as u8;
            if let Some(details) = &mut flow.details {
                details.swap_roles();
            }
            // The other end is looked up as the server now, if names are known at all.
            if flow.parties.is_some() {
                flow.naming = NameState::Unasked;
            }
            roles::direction_of(&self.facing, client, sender, record)
        } else if roles::opened_by_workload(&self.facing, flow.client.into(), sender, record) {
            Direction::Egress
        } else {
            return;
        };
        if direction == flow.direction {
            return;
        }
        self.counts.entry((flow.protocol, flow.direction)).and_modify(|count| *count -= 1);
        *self.counts.entry((flow.protocol, direction)).or_default() += 1;
        flow.direction = direction;
        marked.emit(FlowEvent::Reclassified, observer);
    }

    /// What is remembered of the record's connection, unless a SYN of its own shows that it is a new one.
    fn past(&mut self, hash: u64, identity: &Identity, record: &Record) -> Option<Past> {
        let reported_as_repeated = || record.facts.as_ref().is_some_and(|facts| facts.retransmits > 0);
        let past = self.pasts.take(hash, record.first_ns)?;
        let opens = record.syn || record.syn_ack;
        (!opens || reported_as_repeated() || past.has_sent(identity.sender, record)).then_some(past)
    }

    /// Opens a flow, which may continue a remembered connection. Returns its index.
    pub(super) fn open(
        &mut self,
        hash: u64,
        identity: &Identity,
        record: &Record,
        observer: &mut impl Observer<Mark = M>,
    ) -> u32 {
        self.make_room(observer);
        let Identity { key, sender, .. } = *identity;
        let past = self.past(hash, identity, record);
        let evidence = past.map(|past| past.client.into()).or_else(|| roles::evidence(identity, record));
        let client = evidence.unwrap_or_else(|| roles::guess(&key, sender));
        self.generation = self.generation.wrapping_add(1);
        let mut flow = Flow {
            ends: Ends::of(&key),
            protocol: key.protocol,
            sent: Default::default(),
            client: client as u8,
            direction: roles::direction_of(&self.facing, client, sender, record),
            outcome: None,
            app: None,
            details: None,
            marks: if evidence.is_some() { CLIENT_IS_KNOWN } else { 0 },
            first_ns: record.first_ns,
            parties: None,
            naming: NameState::Unasked,
            generation: self.generation,
            link: Link::default(),
        };
        if let Some(past) = past {
            past.go_on(&mut flow);
        }
        *self.counts.entry((key.protocol, flow.direction)).or_default() += 1;
        // The records that follow may show that it waits for an answer.
        let wait = self.limits.connect_timeout.min(self.limits.flow_timeout);
        let index = self.flows.insert(Marked { flow, mark: M::default() });
        self.index.insert(hash as u32, index);
        let at = seconds(record.last_ns.saturating_add(wait.as_nanos() as u64)) + 1;
        self.wheel.schedule(&mut self.flows, index, at);
        self.begin(index, observer);
        index
    }
}
