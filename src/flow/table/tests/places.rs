//! The same packet seen at several places counts once; different packets at several places count separately.

use std::collections::BTreeMap;

use super::*;
use crate::bpf::{Endpoint, Link};
use crate::flow::Networks;
use crate::flow::outcome::{ICMP, UDP};

fn divided(addressed: bool) -> (Table, Log) {
    let mut table = table(100);
    table.divide(Networks::new(&bridges(addressed), |_| true));
    (table, Log::default())
}

/// Two bridges, 10 and 20, with ports 11, 12 and 21, 22; and an uplink, 1.
fn bridges(addressed: bool) -> BTreeMap<u32, Link> {
    let mut links = BTreeMap::new();
    let mut add = |index: u32, kind: &str, master: Option<u32>| {
        let mut link = Link::sample(index, &index.to_string(), kind);
        (link.master, link.addressed) = (master, addressed && kind == "bridge");
        links.insert(index, link);
    };
    add(1, "physical", None);
    for bridge in [10, 20] {
        add(bridge, "bridge", None);
        add(bridge + 1, "veth", Some(bridge));
        add(bridge + 2, "veth", Some(bridge));
    }
    links
}

fn at(ifindex: u32, hook: Hook, record: &Record) -> Record {
    Record { ifindex, hook, ..record.clone() }
}

/// The record as it comes in at the first port of a bridge and leaves by the second.
fn bridged(bridge: u32, record: &Record) -> [Record; 2] {
    [at(bridge + 1, Hook::Ingress, record), at(bridge + 2, Hook::Egress, record)]
}

/// All rotations of the records.
fn orders(records: &[Record]) -> Vec<Vec<Record>> {
    (0..records.len()).map(|n| records[n..].iter().chain(&records[..n]).cloned().collect()).collect()
}

fn counted(addressed: bool, records: &[Record]) -> (usize, u64, u64) {
    let (mut table, mut log) = divided(addressed);
    for record in records {
        table.merge(record, &mut log);
    }
    (table.len(), log.sent, log.duplicate)
}

#[test]
fn tenants_with_the_same_addresses_are_two_flows() {
    let record = Record { protocol: UDP, tcp_flags: 0, ..packet(1, 101) };
    let both = [bridged(10, &record), bridged(20, &record)].concat();
    for records in orders(&both) {
        assert_eq!(counted(false, &records), (2, 2, 2), "{records:?}");
    }
    for records in orders(&bridged(10, &record)) {
        assert_eq!(counted(false, &records), (1, 1, 1), "one bridge");
    }
}

#[test]
fn packets_routed_between_bridges_count_once() {
    let record = packet(1, 101);
    let both = [bridged(10, &record), bridged(20, &record)].concat();
    for records in orders(&both) {
        assert_eq!(counted(true, &records), (1, 1, 3), "{records:?}");
    }
}

/// For example in a tunnel, or under a VLAN tag that was not removed.
#[test]
fn an_uplink_may_carry_the_packets_of_any_network() {
    let record = packet(1, 101);
    let all = [&bridged(10, &record)[..], &[at(1, Hook::Egress, &record)]].concat();
    for records in orders(&all) {
        assert_eq!(counted(false, &records), (1, 1, 2), "{records:?}");
    }
}

#[test]
fn clients_without_an_address_are_counted_separately() {
    let source = Endpoint { address: [0; 16], port: 68 };
    let record = Record { protocol: UDP, tcp_flags: 0, source, destination: end(255, 67), ..packet(1, 101) };
    // Both ports of a bridge send, and each receives what the other sends; so does the bridge itself.
    let all = [
        at(11, Hook::Ingress, &record),
        at(12, Hook::Ingress, &record),
        at(11, Hook::Egress, &record),
        at(12, Hook::Egress, &record),
        at(10, Hook::Ingress, &record),
    ];
    for records in orders(&all) {
        for addressed in [false, true] {
            let (_, sent, duplicate) = counted(addressed, &records);
            assert_eq!((sent, duplicate), (2, 3), "{records:?}");
        }
    }
    // The host's own client, through the bridge.
    let own = [at(10, Hook::Egress, &record), at(11, Hook::Egress, &record), at(12, Hook::Egress, &record)];
    for records in orders(&own) {
        assert_eq!(counted(true, &records).1, 1, "{records:?}");
    }
}

#[test]
fn what_a_bridge_has_seen_goes_on_at_its_ports() {
    let (mut table, mut log) = divided(true);
    let (out, back) = (packet(1, 101), reply(packet(1, 101)));
    table.merge(&at(10, Hook::Egress, &out), &mut log);
    table.merge(&at(10, Hook::Ingress, &back), &mut log);
    table.merge(&at(12, Hook::Egress, &out), &mut log);
    assert_eq!((log.sent, log.duplicate), (2, 1), "the bridge is watched");
    table.divide(Networks::new(&bridges(true), |link| link.kind != "bridge"));
    let (out, back) = (packet(1, 103), reply(packet(1, 103)));
    table.merge(&at(12, Hook::Egress, &out), &mut log);
    table.merge(&at(12, Hook::Ingress, &back), &mut log);
    table.merge(&at(11, Hook::Egress, &out), &mut log);
    assert_eq!((log.sent, log.duplicate), (4, 2), "the bridge is left");
}

/// The first packet to an address that a bridge has not learned leaves by all ports, the others only by the one behind
/// which the address is.
#[test]
fn packets_that_are_flooded_count_once() {
    let (out, back) = (packet(1, 101), reply(packet(1, 101)));
    let counted = |records: &[Record]| {
        let (mut table, mut log) = (table(100), Log::default());
        table.divide(Networks::new(&bridges(true), |link| link.kind != "bridge"));
        records.iter().for_each(|record| table.merge(record, &mut log));
        (log.sent, log.duplicate)
    };
    // In one record with what follows.
    let all = [
        at(11, Hook::Egress, &out),
        at(12, Hook::Egress, &Record { packets: 5, bytes: 500, ..out.clone() }),
        at(12, Hook::Ingress, &Record { packets: 3, ..back.clone() }),
    ];
    for records in orders(&all).into_iter().chain(orders(&[all[1].clone(), all[0].clone(), all[2].clone()])) {
        assert_eq!(counted(&records), (8, 1), "{records:?}");
    }
    // In a record of its own.
    for first in [11, 12] {
        let flooded = [at(first, Hook::Egress, &out), at(23 - first, Hook::Egress, &out)];
        let rest = [
            at(12, Hook::Ingress, &back),
            at(12, Hook::Egress, &packet(1, 102)),
            at(12, Hook::Egress, &packet(1, 103)),
        ];
        assert_eq!(counted(&[&flooded[..], &rest].concat()), (4, 1), "{first} was the first");
    }
    // Nobody answers.
    let again = [101, 102, 103].map(|second| [11, 12].map(|port| at(port, Hook::Egress, &packet(1, second))));
    assert_eq!(counted(&again.concat()), (3, 3));
}

#[test]
fn clients_without_an_address_behind_a_bridge_that_is_left_are_counted_separately() {
    let source = Endpoint { address: [0; 16], port: 68 };
    let record = Record { protocol: UDP, tcp_flags: 0, source, destination: end(255, 67), ..packet(1, 101) };
    let hooks = [(11, Hook::Ingress), (12, Hook::Egress), (12, Hook::Ingress), (11, Hook::Egress)];
    for records in orders(&hooks.map(|(port, hook)| at(port, hook, &record))) {
        let (mut table, mut log) = (table(100), Log::default());
        table.divide(Networks::new(&bridges(true), |link| link.kind != "bridge"));
        records.iter().for_each(|record| table.merge(record, &mut log));
        assert_eq!((log.sent, log.duplicate), (2, 2), "{records:?}");
    }
}

/// Errors about connections of two pods come in as one flow.
#[test]
fn errors_count_where_they_come_in() {
    let icmp = |to: u8, packets: u64| {
        let (source, destination) = (Endpoint { port: 0, ..end(9, 0) }, Endpoint { port: 0, ..end(to, 0) });
        Record { protocol: ICMP, icmp_type: 3, tcp_flags: 0, packets, source, destination, ..packet(1, 101) }
    };
    let came = at(1, Hook::Ingress, &icmp(4, 5));
    let untranslated = Identity::of(&came);
    let (key, sender) = FlowKey::of(&came);
    let nat = crate::flow::Nat { client: None, server: None };
    let tracked = Some(crate::flow::Tracked { client: sender, nat, translated: true });
    let translated = Identity { key, sender, tracked, only_if_known: false };
    let (mut table, mut log) = (table(100), Log::default());
    table.merge_as(&translated, &at(7, Hook::Egress, &icmp(1, 1)), &mut log); // it may be reported first
    for pod in [1, 2] {
        table.merge_as(&untranslated, &came, &mut log);
        table.merge_as(&translated, &at(7 + u32::from(pod), Hook::Egress, &icmp(pod, 5)), &mut log);
    }
    let flow = table.iter().next().unwrap();
    assert_eq!((table.len(), log.sent, log.duplicate), (1, 6, 15));
    assert_eq!((flow.from_client().ifindex, flow.nat()), (1, None));
    // An error of this host itself: there is no such flow.
    let maybe = Identity { only_if_known: true, ..translated };
    let (mut table, mut log) = (super::table(100), Log::default());
    table.merge_as(&maybe, &at(7, Hook::Egress, &icmp(1, 1)), &mut log);
    assert_eq!(table.iter().next().unwrap().key(), FlowKey::of(&icmp(1, 1)).0);
}
