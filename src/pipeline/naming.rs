//! Asks the index of names who the ends of a flow are, for one worker.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bpf::{Clock, Endpoint};
use crate::flow::{Directory, Flow, Named, Parties};
use crate::names::{Answer, End, Names};

/// Between two looks for news.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Most pairs of parties that are kept to be shared by the flows between them.
const SHARED_MOST: usize = 1 << 14;
/// Most addresses that are remembered as nameless.
const STRANGERS_MOST: usize = 1 << 14;
/// How long they are remembered.
const STRANGE_FOR: Duration = Duration::from_secs(300);
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// What a worker asks for names.
pub(super) struct Namer {
    /// `None`: nobody has a name.
    names: Option<Arc<Names>>,
    generation: u64,
    looked: Instant,
    /// From the flows' clock to nanoseconds since 1970.
    clock_offset_ns: i64,
    /// By the addresses of both parties in memory, where they stay as long as the value has them.
    shared: HashMap<[usize; 2], Arc<Parties>>,
    /// Addresses that got no name in time, and until when no flow waits for them again.
    strangers: HashMap<IpAddr, Instant>,
    /// When expired strangers were dropped last.
    tidied: Instant,
}

impl Namer {
    pub(super) fn new(names: Option<Arc<Names>>) -> Namer {
        Namer {
            names,
            generation: 0,
            looked: Instant::now(),
            clock_offset_ns: Clock::offset_to_1970(),
            shared: HashMap::new(),
            strangers: HashMap::new(),
            tidied: Instant::now(),
        }
    }

    /// `Some` if it is time to look at the flows without names again; true if there are new names.
    pub(super) fn look(&mut self) -> Option<bool> {
        let names = self.names.as_ref()?;
        if self.looked.elapsed() < LOOK_EVERY {
            return None;
        }
        self.looked = Instant::now();
        self.clock_offset_ns = Clock::offset_to_1970();
        let generation = names.generation();
        let news = generation != std::mem::replace(&mut self.generation, generation);
        if news {
            // Else parties that no longer exist would stay in memory.
            self.shared = HashMap::new();
        }
        Some(news)
    }

    /// Who client and server are, and the addresses that decided it.
    fn ask(&self, flow: &Flow) -> Option<([Answer; 2], [IpAddr; 2])> {
        let index = self.names.as_ref()?.load();
        let (protocol, at) = (flow.protocol, flow.first_ns.saturating_add_signed(self.clock_offset_ns));
        let client = usize::from(flow.client & 1);
        let end = |endpoint: Endpoint| End { ip: endpoint.ip(flow.v6()), port: endpoint.port };
        let [asking, dialled] = [client, 1 - client].map(|side| end(flow.endpoint(side)));
        let backend = flow.nat().and_then(|nat| nat.server).map(end);
        let answers = [index.client(asking, protocol, at), index.server(dialled, backend, protocol, at)];
        Some((answers, [asking.ip, backend.unwrap_or(dialled).ip]))
    }

    fn is_stranger(&self, ip: IpAddr) -> bool {
        self.strangers.get(&ip).is_some_and(|until| *until > Instant::now())
    }

    fn share(&mut self, parties: Parties) -> Arc<Parties> {
        let key = [0, 1].map(|end| parties[end].as_ref().map_or(0, |party| Arc::as_ptr(party) as usize));
        if let Some(shared) = self.shared.get(&key) {
            return Arc::clone(shared);
        }
        if self.shared.len() >= SHARED_MOST {
            self.shared = HashMap::new();
        }
        let parties = Arc::new(parties);
        self.shared.insert(key, Arc::clone(&parties));
        parties
    }
}

impl Directory for Namer {
    fn identify(&mut self, flow: &Flow) -> Named {
        let Some((answers, addresses)) = self.ask(flow) else { return Named::default() };
        let missing = |i: usize| matches!(answers[i], Answer::NotYet(_));
        let awaited = missing(0) || missing(1);
        let hold = (0..2).any(|i| missing(i) && !self.is_stranger(addresses[i]));
        let [client, server] = answers.map(|answer| answer.party().cloned());
        let parties = if flow.client & 1 == 0 { [client, server] } else { [server, client] };
        Named { parties: Some(self.share(parties)), awaited, hold }
    }

    /// The next flows of its addresses do not wait.
    fn give_up(&mut self, flow: &Flow) {
        let now = Instant::now();
        // A flood of them must not have all looked at again and again.
        if now.duration_since(self.tidied) >= TIDY_EVERY {
            self.tidied = now;
            self.strangers.retain(|_, until| *until > now);
            self.strangers.shrink_to(2 * self.strangers.len());
        }
        let Some((answers, addresses)) = self.ask(flow) else { return };
        for (answer, ip) in answers.iter().zip(addresses) {
            if matches!(answer, Answer::NotYet(_)) && self.strangers.len() < STRANGERS_MOST {
                self.strangers.insert(ip, now + STRANGE_FOR);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{Cause, Hook, Record};
    use crate::flow::{FlowKey, Observing, Quiet, Table, TableLimits};
    use crate::names::{Cluster, Index, NamedNetwork};

    fn names(cluster: Cluster) -> Arc<Names> {
        let corp = NamedNetwork { network: "10.1.0.0/16".parse().unwrap(), name: "corp".into() };
        Arc::new(Names::new(Index::new(&[corp], cluster, "n1")))
    }

    fn record(client: [u8; 4], port: u16, at_ns: u64) -> Record {
        Record {
            v6: false,
            source: Endpoint::of(client.into(), port),
            destination: Endpoint::of([10, 1, 0, 9].into(), 80),
            protocol: 6,
            ifindex: 1,
            hook: Hook::Ingress,
            inner: false,
            vlan: 0,
            inner_vlan: 0,
            packets: 1,
            bytes: 60,
            first_ns: at_ns,
            last_ns: at_ns,
            tcp_flags: 2,
            syn: true,
            syn_ack: false,
            cause: Cause::Swept,
            ..Record::default()
        }
    }

    fn table() -> Table {
        let timeout = Duration::from_secs(300);
        Table::new(TableLimits { max_flows: 100, flow_timeout: timeout, connect_timeout: timeout, max_age: None }, 0)
    }

    fn of(table: &Table, port: u16) -> &Flow {
        let has = |key: &FlowKey| key.ends.iter().any(|end| end.port == port);
        table.iter().find(|flow| has(&flow.key())).unwrap()
    }

    #[test]
    fn flows_of_the_same_ends_share_their_names() {
        let (mut table, mut namer) = (table(), Namer::new(Some(names(Cluster::Absent))));
        let mut observing = Observing { directory: &mut namer, sinks: &mut Quiet };
        table.merge(&record([10, 1, 0, 1], 4000, 1), &mut observing);
        table.merge(&record([10, 1, 0, 1], 4001, 1), &mut observing);
        let [one, other] = [4000, 4001].map(|port| of(&table, port).parties.clone().unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(of(&table, 4000).client_party().unwrap().name.as_deref(), Some("corp"));
        assert_eq!(of(&table, 4000).naming, crate::flow::NameState::Settled);
    }

    #[test]
    fn nobody_waits_twice_for_a_stranger() {
        use crate::flow::NameState::{Awaited, Overdue};
        const SECOND: u64 = 1_000_000_000;
        let (mut table, mut namer) = (table(), Namer::new(Some(names(Cluster::Whole))));
        let mut observing = Observing { directory: &mut namer, sinks: &mut Quiet };
        let stranger = [192, 168, 3, 4];
        table.merge(&record(stranger, 4000, SECOND), &mut observing);
        assert_eq!(of(&table, 4000).naming, Awaited, "an address as pods have them");
        table.name_again(false, 40 * SECOND, &mut observing);
        table.merge(&record(stranger, 4001, 40 * SECOND), &mut observing);
        table.merge(&record([192, 168, 3, 5], 4002, 40 * SECOND), &mut observing);
        assert_eq!([4000, 4001, 4002].map(|port| of(&table, port).naming), [Overdue, Overdue, Awaited]);
    }
}
