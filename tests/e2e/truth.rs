//! What the sockets say about the traffic, and the comparison with what both agents count.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use netmon::bpf::Tally;

use super::cluster::{API, CACHE, Cluster, FRONT, WEB};
use super::failures::{self, FAILURES, Failure};
use crate::live::apps;
use crate::live::prometheus::Prometheus;
use crate::live::traffic::{ETH, listen, transfer_to};
use crate::support::netns::Netns;

/// Connections that fail in each way, in a round.
const EACH: u64 = 3;

/// The ends of connections: client and server, and whether each is on a node of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    client: &'static str,
    server: &'static str,
    between_nodes: bool,
}

/// What has been sent so far.
#[derive(Default)]
pub struct Truth {
    /// Connections of each pair, and what its client and its server have sent, on the wire.
    sent: BTreeMap<Pair, (u64, Tally, Tally)>,
    /// Rounds of traffic.
    rounds: u64,
}

impl Truth {
    /// A round of traffic; what it is made of is the same each time.
    pub fn traffic(&mut self, cluster: &Cluster) {
        if self.rounds == 0 {
            failures::prepare(cluster);
        }
        self.rounds += 1;
        let Cluster { frontend, cache, api, .. } = cluster;
        let front = format!("{FRONT}:8080");
        let through_service = Pair { client: "frontend", server: "api", between_nodes: true };
        self.transfer(through_service, frontend, (api, &format!("{API}:8080")), &front, 4);
        let on_a_node = Pair { client: "frontend", server: "cache", between_nodes: false };
        self.transfer(on_a_node, frontend, (cache, &format!("{CACHE}:6380")), &format!("{CACHE}:6380"), 3);
        let back = Pair { client: "api", server: "cache", between_nodes: true };
        self.transfer(back, api, (cache, &format!("{CACHE}:6381")), &format!("{CACHE}:6381"), 2);
        for failure in FAILURES {
            (0..EACH).for_each(|_| failure.happen(cluster));
        }
        failures::late(cluster);
        for name in ["http", "dns", "redis"] {
            apps::talk(frontend, name, WEB);
        }
        // An ICMP error: nobody listens.
        frontend.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", (WEB, 9)).unwrap());
    }

    /// Makes connections from `client` to `dial`, where the server listens or which is translated to that.
    fn transfer(&mut self, pair: Pair, client: &Netns, server: (&Netns, &str), dial: &str, streams: usize) {
        let listener = listen(server.0, server.1.parse().unwrap());
        let (count, by_client, by_server) = self.sent.entry(pair).or_default();
        for connection in transfer_to(client, listener, dial.parse().unwrap(), streams, 300_000) {
            *count += 1;
            *by_client += connection.client_on_wire(ETH);
            *by_server += connection.server_on_wire(ETH);
        }
    }

    /// Waits until Prometheus has the connections of all pairs, and of all failures but the one that takes longest.
    pub fn begun(&self, prometheus: &Prometheus) {
        for (Pair { client, server, .. }, (count, ..)) in &self.sent {
            let of = format!("{{direction=\"egress\",src_workload=\"{client}\",dst_workload=\"{server}\"}}");
            prometheus.reaches(&format!("sum(netmon_flows_total{of})"), *count);
        }
        for failure in FAILURES.iter().filter(|failure| failure.reason != "timeout") {
            prometheus.reaches(&failures_in(failure), EACH * self.rounds);
        }
    }

    /// Waits until Prometheus has all of it from the agents, each connection, byte and packet once; says what that was.
    pub fn compare(&self, prometheus: &Prometheus) -> Vec<String> {
        let mut found = Vec::new();
        for (Pair { client, server, between_nodes }, (count, by_client, by_server)) in &self.sent {
            // The client's agent counts a connection as egress, the server's as ingress.
            for (direction, counts) in [("egress", 1), ("ingress", u64::from(*between_nodes))] {
                for (src, dst, sent) in [(client, server, by_client), (server, client, by_server)] {
                    let of = format!("{{direction=\"{direction}\",src_workload=\"{src}\",dst_workload=\"{dst}\"}}");
                    let bytes = format!("netmon_bytes_total{of}");
                    prometheus.reaches(&format!("sum({bytes})"), sent.bytes * counts);
                    prometheus.reaches(&format!("sum(netmon_packets_total{of})"), sent.packets * counts);
                    prometheus.reaches(&format!("count(count by (instance) ({bytes}))"), counts);
                }
                let of = format!("{{direction=\"{direction}\",src_workload=\"{client}\",dst_workload=\"{server}\"}}");
                prometheus.reaches(&format!("sum(netmon_flows_total{of})"), count * counts);
                found.push(match counts {
                    0 => format!("{client} to {server}, {direction}: no agent counts it, because both are on one node"),
                    _ => format!(
                        "{client} to {server}, {direction}: one agent counts what the sockets sent: {count} connections, \
                         {} bytes in {} packets there, {} bytes in {} packets back",
                        by_client.bytes, by_client.packets, by_server.bytes, by_server.packets
                    ),
                });
            }
        }
        for failure in &FAILURES {
            let (wanted, Failure { reason, to, how, .. }) = (EACH * self.rounds, failure);
            prometheus.reaches(&failures_in(failure), wanted);
            found.push(format!("frontend to {to}: {wanted} connections fail with {reason}: {how}"));
        }
        let again = "netmon_retransmits_total{src_workload=\"frontend\",dst_workload=\"db\"}";
        for bound in ["min", "max"] {
            prometheus.reaches(&format!("{bound}({again})"), self.rounds);
        }
        found.push(format!("frontend to db: both agents count each SYN that is sent again: {}", self.rounds));
        found
    }
}

/// The number of connections that failed in this way, counted at the client's node.
fn failures_in(Failure { reason, to, .. }: &Failure) -> String {
    let ends = format!("src_workload=\"frontend\",dst_workload=\"{to}\"");
    format!("sum(netmon_flows_total{{direction=\"egress\",{ends},reason=\"{reason}\"}})")
}
