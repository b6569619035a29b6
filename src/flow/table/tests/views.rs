//! Which view owns a flow that is seen both by itself and in a tunnel.

use super::*;
use crate::bpf::App;

/// A router may see a packet by itself and, at the same hook, in a tunnel.
#[test]
fn the_inside_of_a_tunnel_is_another_view() {
    let (mut table, mut log) = (table(10), Log::default());
    table.merge(&packet(1, 100), &mut log);
    table.merge(&Record { inner: true, ..packet(1, 101) }, &mut log);
    let flow = table.iter().next().unwrap();
    assert_eq!((flow.from_client().packets, flow.from_client().inner()), (1, false));
    // The owner is silent: the view that still sees the flow takes over.
    table.merge(&Record { inner: true, ..packet(1, 120) }, &mut log);
    let flow = table.iter().next().unwrap();
    assert_eq!((flow.from_client().packets, flow.from_client().inner()), (2, true));
    assert_eq!(flow.from_client().hook(), Hook::Egress);
}

/// On a loopback device every packet passes both hooks, and the hook that it passes first examines the payload.
#[test]
fn the_protocol_may_be_reported_by_another_hook() {
    let (mut table, mut log) = (table(10), Log::default());
    table.merge(&packet(1, 100), &mut log);
    let mut facts = Facts::of_samples(&[]);
    facts.app = Some(App::Http);
    table.merge(&Record { hook: Hook::Ingress, facts: Some(facts), ..packet(1, 100) }, &mut log);
    let flow = table.iter().next().unwrap();
    assert_eq!((flow.app, flow.from_client().packets, log.duplicate), (Some(App::Http), 1, 1));
    assert_eq!(log.classified, 2, "counted under its protocol from then on");
}
