use super::*;
use crate::bpf::{Cause, Endpoint};

/// Index, kind, master, other changes.
type Shape<'a> = (u32, &'a str, u32, fn(&mut Link));

fn links(list: &[Shape<'_>]) -> BTreeMap<u32, Link> {
    let link = |&(index, kind, master, change): &Shape<'_>| {
        let mut link = Link::sample(index, &index.to_string(), kind);
        link.master = (master != 0).then_some(master);
        change(&mut link);
        (index, link)
    };
    list.iter().map(link).collect()
}

fn plain(_: &mut Link) {}

fn addressed(link: &mut Link) {
    link.addressed = true;
}

fn vlan_of_1(link: &mut Link) {
    (link.lower, link.repeats) = (Some(1), Some(1));
    link.vlan = Some(link.index as u16);
}

fn peer_before(link: &mut Link) {
    link.lower = Some(link.index - 1);
}

/// An uplink, and two bridges with two ports each.
fn two_bridges(change: fn(&mut Link)) -> BTreeMap<u32, Link> {
    links(&[
        (1, "physical", 0, addressed),
        (10, "bridge", 0, change),
        (11, "veth", 10, plain),
        (12, "tun", 10, plain),
        (20, "bridge", 0, change),
        (21, "veth", 20, plain),
        (22, "vxlan", 20, plain),
    ])
}

fn record(ifindex: u32, vlan: u16, hook: Hook) -> Record {
    Record {
        v6: false,
        source: Endpoint { address: [0; 16], port: 68 },
        destination: Endpoint { address: [255; 16], port: 67 },
        protocol: 17,
        ifindex,
        hook,
        inner: false,
        vlan,
        inner_vlan: 0,
        packets: 1,
        bytes: 100,
        first_ns: 1,
        last_ns: 1,
        tcp_flags: 0,
        syn: false,
        syn_ack: false,
        cause: Cause::Swept,
        ..Record::default()
    }
}

fn network(networks: &Networks, ifindex: u32, vlan: u16) -> Network {
    networks.of(&record(ifindex, vlan, Hook::Ingress))
}

fn all(links: &BTreeMap<u32, Link>) -> Vec<Network> {
    let networks = Networks::new(links, |_| true);
    links.keys().map(|&index| network(&networks, index, 0)).collect()
}

#[test]
fn bridges_without_an_address_are_networks() {
    assert_eq!(all(&two_bridges(plain)), [0, 11, 11, 11, 21, 21, 21]);
    assert_eq!(all(&two_bridges(addressed)), [0; 7], "the host routes between them");
}

#[test]
fn bridges_that_are_connected_are_one_network() {
    let joined = links(&[
        (10, "bridge", 0, plain),
        (20, "bridge", 0, plain),
        (30, "veth", 10, plain),
        (31, "veth", 20, peer_before),
    ]);
    assert_eq!(all(&joined), [11; 4]);
    let routed = links(&[
        (10, "bridge", 0, plain),
        (30, "veth", 10, plain),
        (31, "veth", 0, |link| {
            peer_before(link);
            addressed(link);
        }),
    ]);
    assert_eq!(all(&routed), [0; 3], "the host has an address beyond a pair");
}

#[test]
fn vrfs_are_networks_with_addresses() {
    let tenants = links(&[
        (10, "vrf", 0, plain),
        (11, "veth", 10, addressed),
        (12, "bridge", 10, addressed),
        (13, "veth", 12, plain),
        (20, "vrf", 0, plain),
        (21, "veth", 20, addressed),
    ]);
    assert_eq!(all(&tenants), [11, 11, 11, 11, 21, 21]);
}

#[test]
fn vlans_of_an_uplink_belong_to_their_bridges() {
    let mut tenants = two_bridges(plain);
    tenants.extend(links(&[(5, "vlan", 10, vlan_of_1), (6, "vlan", 20, vlan_of_1), (7, "vlan", 0, vlan_of_1)]));
    tenants.extend(links(&[(8, "vlan", 10, |link| (link.lower, link.vlan) = (Some(7), Some(100)))]));
    let networks = Networks::new(&tenants, |_| true);
    assert_eq!([0, 5, 6, 7, 9].map(|id| network(&networks, 1, id)), [0, 11, 21, 0, 0]);
    let inner = Record { inner_vlan: 100, ..record(1, 7, Hook::Ingress) };
    assert_eq!(networks.of(&inner), 11, "QinQ");
    assert_eq!(networks.of(&Record { inner: true, ..record(11, 0, Hook::Ingress) }), 0, "in a tunnel");
}

fn sights(networks: &Networks, ifindex: u32, vlan: u16) -> [Sight; 2] {
    [Hook::Ingress, Hook::Egress].map(|hook| networks.sight(&record(ifindex, vlan, hook)))
}

#[test]
fn packets_without_a_source_enter_once() {
    use Sight::{Again, First, Unknown};
    let mut links = two_bridges(addressed);
    links.extend(self::links(&[(5, "vlan", 10, vlan_of_1), (9, "dummy", 0, plain)]));
    let networks = Networks::new(&links, |link| link.repeats.is_none());
    assert_eq!(sights(&networks, 11, 0), [First, Again], "a port");
    assert_eq!(sights(&networks, 10, 0), [Again, First], "the bridge: the host sends through it");
    assert_eq!(sights(&networks, 1, 0), [First, First], "an uplink");
    assert_eq!(sights(&networks, 1, 5), [First, Again], "a VLAN of the uplink that is a bridge's port");
    assert_eq!(sights(&networks, 9, 0), [Unknown; 2]);
    let inner = Record { inner: true, ..record(1, 0, Hook::Ingress) };
    assert_eq!(networks.sight(&inner), Again, "a bridge has a tunnel");
    let known = Record { source: Endpoint { address: [10; 16], port: 0 }, ..record(11, 0, Hook::Ingress) };
    assert_eq!(networks.sight(&known), Unknown);
    let networks = Networks::new(&links, |link| link.repeats.is_none() && link.kind != "bridge");
    assert_eq!(sights(&networks, 11, 0), [First, Again], "a port of a bridge that is left to its ports");
    links.remove(&22);
    let networks = Networks::new(&links, |link| link.repeats.is_none() && link.kind != "bridge");
    assert_eq!(sights(&networks, 21, 0), [First, First], "the only port");
    let networks = Networks::new(&links, |link| link.index != 12);
    assert_eq!(sights(&networks, 11, 0), [Unknown; 2], "not all ports are watched");
}
