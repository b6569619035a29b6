//! Who owns a flow that is seen by itself and in a tunnel.

use super::*;
use crate::bpf::App;

/// A router may see a packet by itself and, at the same hook, in a tunnel.
#[test]
fn what_is_in_a_tunnel_is_another_view() {
    let (mut table, mut log) = (table(10), Log::default());
    table.merge(&packet(1, 100), &mut log);
    table.merge(&Record { inner: true, ..packet(1, 101) }, &mut log);
    let flow = table.iter().next().unwrap();
    assert_eq!((flow.from_client().packets, flow.from_client().inner()), (1, false));
    // The owner is silent: who still sees the flow has it.
    table.merge(&Record { inner: true, ..packet(1, 120) }, &mut log);
    let flow = table.iter().next().unwrap();
    assert_eq!((flow.from_client().packets, flow.from_client().inner()), (2, true));
    assert_eq!(flow.from_client().hook(), Hook::Egress);
}

/// On a loopback device every packet passes both hooks, and the payload is looked at by whichever comes first.
#[test]
fn what_a_flow_speaks_may_be_told_by_another_hook() {
    let (mut table, mut log) = (table(10), Log::default());
    table.merge(&packet(1, 100), &mut log);
    let mut facts = Facts::of_samples(&[]);
    facts.app = Some(App::Http);
    table.merge(&Record { hook: Hook::Ingress, facts: Some(facts), ..packet(1, 100) }, &mut log);
    let flow = table.iter().next().unwrap();
    assert_eq!((flow.app, flow.from_client().packets, log.duplicate), (Some(App::Http), 1, 1));
    assert_eq!(log.classified, 2, "counted as such from then on");
}
