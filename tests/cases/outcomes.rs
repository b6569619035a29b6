//! An outcome looks at what the packet is.

use serde_json::Value;

use super::flows;
use crate::needs_root;

fn fates(flows: &[Value]) -> Vec<(&str, &str)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    flows
        .iter()
        .map(|flow| {
            (flow["server_ip"].as_str().unwrap(), if text(&flow["status"]) == "failed" { "failed" } else { "" })
        })
        .collect()
}

/// mDNS and LLMNR to their groups, pings to a broadcast address and to a group: who answers does so under an address of its own.
#[test]
fn who_asks_a_group_waits_for_nobody() {
    needs_root!();
    let flows = flows("multicast_queries.pcap");
    assert_eq!(flows.len(), 9);
    assert!(fates(&flows).iter().all(|fate| fate.1.is_empty()), "{:?}", fates(&flows));
}

/// RFC 1812 5.2.7.2: the datagram that a redirect is about was forwarded.
#[test]
fn a_redirect_is_no_failure() {
    needs_root!();
    let flows = flows("icmp_redirect.pcap");
    let syslog = flows.iter().find(|flow| flow["server_port"] == 514).unwrap();
    assert_eq!((syslog["status"].as_str(), syslog["client_packets"].as_u64()), (Some("ok"), Some(3)));
}

/// The client's ACK never came: the server's socket never left SYN-RECEIVED.
#[test]
fn half_open_is_not_open() {
    needs_root!();
    let flows = flows("half_open.pcap");
    let half = flows.iter().find(|flow| flow["client_port"] == 42_000).unwrap();
    let fate = ["state", "status", "reason"].map(|field| half[field].as_str().unwrap());
    assert_eq!(fate, ["syn_received", "failed", "timeout"]);
}
