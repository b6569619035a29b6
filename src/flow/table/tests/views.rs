//! Who owns a flow that is seen by itself and in a tunnel.

use super::*;

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
