use super::super::table::TableLimits;
use super::super::{Directory, Flow, FlowEvent, Sink, Table};
use super::*;
use crate::bpf::{Cause, Hook};

const SECOND: u64 = 1_000_000_000;

pub(super) fn end(host: u8, port: u16) -> Endpoint {
    let mut address = [0; 16];
    address[3] = host;
    Endpoint { address, port }
}

/// The translations in force, and those who look them up.
pub(super) struct Known {
    translations: Translations,
    lookup: Lookup,
    pub(super) errors: Errors,
}

impl Known {
    pub(super) fn new(most: usize) -> Known {
        Known { translations: Translations::new(most), lookup: Lookup::default(), errors: Errors::default() }
    }

    fn change(&mut self, change: impl FnOnce(&mut Translations, &mut Vec<News>)) {
        let mut news = Vec::new();
        change(&mut self.translations, &mut news);
        for news in news {
            self.lookup.learn(&news, |_| true);
            self.errors.learn(&news);
        }
    }

    pub(super) fn apply(&mut self, tracking: &Tracking, now_ns: u64) {
        self.change(|translations, news| translations.apply(tracking, now_ns, news));
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        self.change(|translations, news| translations.expire(now_ns, news));
    }

    pub(super) fn identify(&self, record: &Record) -> Option<Identity> {
        self.lookup.identify(record).or_else(|| self.errors.identify(record))
    }
}

/// Pod 1 dials service 2, backend 3 answers and knows the pod as node 4.
pub(super) fn both() -> Translated {
    let (dialled, answered) = ([end(1, 1000), end(2, 80)], [end(4, 5000), end(3, 8080)]);
    Translated { protocol: 6, v6: false, dialled, answered }
}

pub(super) fn record(source: Endpoint, destination: Endpoint, ifindex: u32, hook: Hook) -> Record {
    Record {
        v6: false,
        source,
        destination,
        protocol: 6,
        ifindex,
        hook,
        inner: false,
        vlan: 0,
        inner_vlan: 0,
        packets: 10,
        bytes: 1000,
        first_ns: SECOND,
        last_ns: SECOND,
        tcp_flags: 16,
        syn: false,
        syn_ack: false,
        cause: Cause::Swept,
        ..Record::default()
    }
}

#[test]
fn all_names_are_one_flow() {
    let mut translations = Known::new(10);
    translations.apply(&Tracking::Begun(both()), 0);
    let Translated { dialled, answered, .. } = both();
    let nat = Nat { client: Some(answered[0]), server: Some(answered[1]) };
    let key = key_of(&both(), dialled).0;
    for ([client, server], translated) in [(dialled, false), (answered, true), ([dialled[0], answered[1]], true)] {
        for (source, destination, sent_by_client) in [(client, server, true), (server, client, false)] {
            let identity = translations.identify(&record(source, destination, 1, Hook::Ingress)).unwrap();
            let tracked = identity.tracked.unwrap();
            assert_eq!((identity.key, tracked.nat, tracked.translated), (key, nat, translated));
            assert_eq!(identity.key.ends[tracked.client], dialled[0]);
            assert_eq!(identity.sender == tracked.client, sent_by_client, "{source:?} to {destination:?}");
        }
    }
    assert!(translations.identify(&record(end(1, 1000), end(9, 80), 1, Hook::Ingress)).is_none());
}

#[test]
fn endpoints_used_again_are_those_of_the_new_connection() {
    let mut translations = Known::new(10);
    let first = both();
    let second = Translated { answered: [end(4, 5001), end(3, 8080)], ..both() };
    translations.apply(&Tracking::Begun(first), 0);
    translations.apply(&Tracking::Ended(first), SECOND);
    translations.apply(&Tracking::Begun(second), SECOND);
    let known_as = |translations: &Known, [client, server]: [Endpoint; 2]| {
        translations.identify(&record(client, server, 1, Hook::Ingress))?.tracked?.nat.client
    };
    assert_eq!(known_as(&translations, first.dialled), Some(end(4, 5001)));
    assert_eq!(known_as(&translations, first.answered), Some(end(4, 5000)), "late records still find it");
    translations.expire(9 * SECOND);
    assert_eq!(translations.translations.len(), 2);
    translations.expire(12 * SECOND);
    assert_eq!(translations.translations.len(), 1);
    assert_eq!(known_as(&translations, first.answered), None);
    assert_eq!(known_as(&translations, second.dialled), Some(end(4, 5001)), "not taken along");
}

#[test]
fn a_list_ends_what_it_lacks_and_adds_what_was_missed() {
    let mut translations = Known::new(10);
    let other =
        |port| Translated { dialled: [end(1, port), end(2, 80)], answered: [end(4, port), end(3, 8080)], ..both() };
    for port in 1..=3 {
        translations.apply(&Tracking::Begun(other(port)), 0);
    }
    let list = translations.translations.begin_list();
    translations.apply(&Tracking::Ended(other(2)), SECOND);
    translations.apply(&Tracking::Begun(other(4)), SECOND);
    translations.change(|all, news| all.end_list(list, &[other(1), other(2), other(5)], SECOND, news));
    assert!(translations.translations.has_missing());
    // The next list fails: it proves nothing.
    translations.translations.begin_list();
    let list = translations.translations.begin_list();
    translations.change(|all, news| all.end_list(list, &[other(1), other(4), other(5)], SECOND, news));
    translations.expire(20 * SECOND);
    let there = |port| translations.identify(&record(end(1, port), end(2, 80), 1, Hook::Ingress)).is_some();
    assert_eq!([1, 2, 3, 4, 5].map(there), [true, false, false, true, true]);
    assert!(!translations.translations.has_missing());
}

/// While its table changes, the kernel's list may lack a connection that exists.
#[test]
fn a_connection_missing_from_one_list_stays() {
    let mut known = Known::new(10);
    known.apply(&Tracking::Begun(both()), 0);
    for (second, all) in [&[][..], &[both()], &[], &[both()]].into_iter().enumerate() {
        let list = known.translations.begin_list();
        known.change(|known, news| known.end_list(list, all, (second as u64 + 1) * 60 * SECOND, news));
        known.expire((second as u64 + 2) * 60 * SECOND);
        assert_eq!(known.translations.len(), 1, "after {second}");
        assert_eq!(known.translations.has_missing(), all.is_empty());
    }
}

/// The kernel could not report the end of the first connection.
#[test]
fn a_list_ends_one_whose_endpoints_another_has() {
    let mut known = Known::new(10);
    let second = Translated { answered: [end(4, 5001), end(3, 8080)], ..both() };
    known.apply(&Tracking::Begun(both()), 0);
    known.apply(&Tracking::Begun(second), SECOND);
    for _ in 0..2 {
        let list = known.translations.begin_list();
        known.change(|all, news| all.end_list(list, &[second], 2 * SECOND, news));
    }
    known.expire(20 * SECOND);
    assert_eq!((known.translations.len(), known.lookup.len()), (1, 3));
    let client = |known: &Known| known.identify(&record(second.dialled[0], second.dialled[1], 1, Hook::Ingress));
    assert_eq!(client(&known).unwrap().tracked.unwrap().nat.client, Some(end(4, 5001)));
}

#[test]
fn a_burst_leaves_no_room_behind() {
    let mut known = Known::new(100_000);
    let of =
        |n: u16, host| Translated { dialled: [end(1, n), end(2, 80)], answered: [end(host, n), end(3, 80)], ..both() };
    for n in 0..50_000 {
        known.apply(&Tracking::Begun(of(n, 4)), 0);
        known.apply(&Tracking::Ended(of(n, 4)), 0);
    }
    known.expire(20 * SECOND);
    assert_eq!((known.translations.len(), known.lookup.len()), (0, 0));
    let Translations { entries, index, ended, .. } = &known.translations;
    let room = entries.capacity().max(index.capacity()).max(ended.capacity());
    assert!(room <= 2 * ROOM, "{room}");
}

#[test]
fn translations_without_room_are_counted() {
    let mut translations = Known::new(1);
    translations.apply(&Tracking::Begun(both()), 0);
    translations.apply(&Tracking::Begun(both()), 0);
    assert_eq!(translations.translations.refused(), 0, "reported twice");
    let other = Translated { dialled: [end(1, 1), end(2, 80)], ..both() };
    translations.apply(&Tracking::Begun(other), 0);
    assert_eq!((translations.translations.len(), translations.translations.refused()), (1, 1));
}

#[derive(Default)]
struct Counted {
    sent: u64,
    duplicate: u64,
}

impl Directory for Counted {}

impl Sink for Counted {
    type Mark = ();

    fn handle(&mut self, event: FlowEvent<'_>, _: &Flow, (): &mut ()) {
        match event {
            FlowEvent::Sent { record, .. } => self.sent += record.packets,
            FlowEvent::Duplicate(record) => self.duplicate += record.packets,
            _ => {}
        }
    }
}

/// Even on one interface: at the same hook, before and after the translation.
#[test]
fn packets_are_counted_once_under_all_names() {
    let mut translations = Known::new(10);
    translations.apply(&Tracking::Begun(both()), 0);
    let Translated { dialled, answered, .. } = both();
    let timeout = Duration::from_secs(30);
    let mut table =
        Table::new(TableLimits { max_flows: 10, flow_timeout: timeout, connect_timeout: timeout, max_age: None }, 0);
    let mut counted = Counted::default();
    for [client, server] in [answered, dialled, answered] {
        let record = record(client, server, 1, Hook::Egress);
        table.merge_as(&translations.identify(&record).unwrap(), &record, &mut counted);
    }
    assert_eq!((table.len(), counted.sent, counted.duplicate), (1, 20, 10));
    let flow = table.iter().next().unwrap();
    assert_eq!(flow.endpoint(usize::from(flow.client)), dialled[0], "the client is the pod");
}
