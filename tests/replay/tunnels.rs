//! Captures of tunnels: the inner packets yield the same flows as if they had been captured by themselves.

use serde_json::Value;

use super::written::{CLIENT, Connection, MS, SERVER, Written};
use super::{flows_of, replay, run, text};
use crate::needs_root;
use crate::support::packet::*;

const ETH: usize = 14;

/// A conversation with data, an echo, and a retransmitted segment.
fn talk() -> Written {
    let mut capture = Written::default();
    let mut c = Connection::new(40000);
    capture.handshake(0, &mut c, 5 * MS, 2 * MS);
    capture.tcp(8 * MS, CLIENT, &mut c, ACK | PSH, 400);
    capture.tcp(20 * MS, SERVER, &mut c, ACK | PSH, 1200);
    let again = c.next[SERVER].wrapping_sub(1200);
    capture.again(300 * MS, SERVER, &c, again, ACK | PSH, 1200);
    capture.tcp(301 * MS, CLIENT, &mut c, ACK, 0);
    capture.echo(400 * MS, CLIENT, 9, 1);
    capture.echo(407 * MS, SERVER, 9, 1);
    capture.close(500 * MS, &mut c);
    capture
}

fn vxlan_over_ipv6(frame: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV6, &ipv6(UDP, &vxlan(8472, frame)))
}

/// The flows of the tunnel, and the others, without their ids.
fn sorted(mut flows: Vec<Value>, app: &str) -> (Vec<Value>, Vec<Value>) {
    for flow in &mut flows {
        flow.as_object_mut().unwrap().remove("id").unwrap();
    }
    flows.into_iter().partition(|flow| flow["app_protocol"] == app)
}

#[test]
fn the_same_flows_in_a_tunnel() {
    needs_root!();
    let plain = talk();
    let (_, expected) = sorted(replay(&plain.file().0), "vxlan");
    assert_eq!(expected.len(), 2);
    let wrapped = plain.each(vxlan_over_ipv6);
    // Only headers, as in a cut capture.
    for file in [wrapped.file(), wrapped.file_of_first(ETH + 40 + 16 + ETH + 20 + 20)] {
        let (tunnel, inner) = sorted(replay(&file.0), "vxlan");
        assert_eq!(inner, expected);
        assert_eq!(tunnel.len(), 1);
        assert_eq!((&tunnel[0]["client_packets"], &tunnel[0]["server_packets"]), (&12.into(), &0.into()));
        let bytes = |flow: &Value| flow["client_bytes"].as_u64().unwrap() + flow["server_bytes"].as_u64().unwrap();
        let inside: u64 = inner.iter().map(bytes).sum();
        assert_eq!(bytes(&tunnel[0]), inside + 12 * (14 + 40 + 8 + 8));
    }
}

#[test]
fn packets_without_frames() {
    needs_root!();
    let plain = talk();
    let (_, expected) = sorted(replay(&plain.file().0), "");
    for (app, protocol, wrap) in [
        ("gre", GRE, (|ip| gre(GRE_KEY | GRE_SEQUENCE, IPV4, ip)) as fn(&[u8]) -> Vec<u8>),
        ("ipip", IPIP, |ip| ip.to_vec()),
        ("geneve", UDP, |ip| geneve(&[0; 12], IPV4, ip)),
    ] {
        let wrapped = plain.each(|frame| ethernet(&[], IPV4, &ipv4(protocol, &[], 7, 0, &wrap(&frame[ETH..]))));
        let (tunnel, inner) = sorted(replay(&wrapped.file().0), app);
        assert_eq!((tunnel.len(), inner.len()), (1, 2), "{app}");
        for (flow, expected) in inner.iter().zip(&expected) {
            for (end, packets) in [("client_bytes", "client_packets"), ("server_bytes", "server_packets")] {
                let without = expected[end].as_u64().unwrap() - ETH as u64 * expected[packets].as_u64().unwrap();
                assert_eq!(flow[end], without, "{app}");
            }
            for field in ["server_retransmits", "rtt_us", "response_us", "start", "state"] {
                assert_eq!(flow[field], expected[field], "{app}");
            }
        }
    }
}

#[test]
fn the_option_and_the_summary() {
    needs_root!();
    let file = talk().each(vxlan_over_ipv6).file();
    let path = file.0.to_str().unwrap();
    let output = run(&[path], &[]);
    assert!(text(&output.stderr).contains("12 packets and 12 in tunnels, 3 flows"), "{}", text(&output.stderr));
    let mut command = std::process::Command::new(super::NETMON);
    command.args(["replay", "-o", "json", path]).env("NETMON_CAPTURE_DECAPSULATION", "false");
    let flows = flows_of(&command.output().unwrap());
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0]["app_protocol"], Value::Null);
}
