use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::bpf::{Cause, Endpoint, Facts, Hook, Measure, Record, Sample};
use crate::flow::{Party, Quiet, Table, TableLimits};
use crate::line::{Ends, LineContext};

const SECOND: u64 = 1_000_000_000;

fn end(host: u8, port: u16) -> Endpoint {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 0, 0, host]);
    Endpoint { address, port }
}

/// A SYN at the `port`th second, from 10.0.0.`client` to a port of 10.0.0.`server`.
fn syn(client: u8, port: u16, server: u8, server_port: u16, bytes: u64) -> Record {
    Record {
        v6: false,
        source: end(client, 40_000 + port),
        destination: end(server, server_port),
        protocol: 6,
        ifindex: 7,
        hook: Hook::Egress,
        inner: false,
        vlan: 0,
        inner_vlan: 0,
        packets: 1,
        bytes,
        first_ns: u64::from(port) * SECOND,
        last_ns: u64::from(port) * SECOND,
        tcp_flags: 2,
        syn: true,
        syn_ack: false,
        cause: Cause::Swept,
        ..Record::default()
    }
}

fn facts(record: Record, retransmits: u16, rtt_ns: u64) -> Record {
    let mut facts = Facts::of_samples(&[Sample { measure: Measure::Rtt, ns: rtt_ns }]);
    facts.retransmits = retransmits;
    Record { facts: Some(facts), ..record }
}

/// The answer of a closed port.
fn reset(syn: Record) -> Record {
    let (source, destination) = (syn.destination, syn.source);
    Record { source, destination, hook: Hook::Ingress, tcp_flags: 4 | 16, syn: false, ..syn }
}

fn room(bytes: usize) -> Share {
    Arc::new(crate::clients::Budget::new(bytes)).take(0).unwrap()
}

/// Four flows: two of host 1 to 9:80, one of host 2 to 9:80, which failed, one of host 1 to 8:53.
fn flows() -> Vec<Flow> {
    let second = Duration::from_secs(1);
    let limits =
        TableLimits { max_flows: 100, flow_timeout: 300 * second, connect_timeout: 300 * second, max_age: None };
    let mut table = Table::new(limits, 0);
    let refused = syn(2, 3, 9, 80, 60);
    for record in [
        facts(syn(1, 1, 9, 80, 100), 0, 5_000_000),
        facts(syn(1, 2, 9, 80, 300), 2, 1_000_000),
        refused.clone(),
        reset(refused),
        Record { protocol: 17, tcp_flags: 0, syn: false, ..syn(1, 4, 8, 53, 50) },
    ] {
        table.merge(&record, &mut Quiet);
    }
    table.settle(100 * SECOND, &mut Quiet);
    let mut flows: Vec<Flow> = table.iter().cloned().collect();
    flows.sort_by_key(|flow| flow.first_ns);
    flows
}

/// Each flow sends a tenth of its bytes a second; `named` may name its ends.
fn top(view: View, order: Order, reverse: bool, limit: usize, filter: &str, named: fn(&mut Line)) -> Top<Line> {
    let filter = (!filter.is_empty()).then(|| Filter::parse(filter).unwrap());
    let mut ranking = Ranking::new(view, order, reverse, limit, filter, room(64 << 20));
    for mut flow in flows() {
        let bytes = flow.sent.iter().map(|sent| sent.bytes).sum::<u64>() as f64;
        let mut line = Line::early(&flow, false);
        named(&mut line);
        let mut parties = [line.client, line.server].map(|end| end.map(|Ends(party)| party));
        parties.rotate_left(usize::from(flow.client & 1));
        flow.parties = Some(Arc::new(parties));
        let mut line = |flow: &Flow| Line::new(flow.first_ns / SECOND, flow, &LineContext::default());
        let rate = Rate { bytes_per_s: bytes / 10.0, packets_per_s: 0.1 };
        ranking.add(RatedFlow { flow: &flow, rate, line: &mut line });
    }
    ranking.finish().unwrap_or_else(|NoRoom| panic!("there is room"))
}

fn ids(top: &Top<Line>) -> Vec<u64> {
    top.rows.iter().map(|row| row.flow.as_ref().unwrap().id).collect()
}

#[test]
fn flows_by_each_order() {
    let order = |order, reverse| ids(&top(View::Flows, order, reverse, 10, "", |_| {}));
    assert_eq!(order(Order::Rate, false), [2, 3, 1, 4]);
    assert_eq!(order(Order::Rate, true), [4, 1, 3, 2]);
    assert_eq!(order(Order::Bytes, false), [2, 3, 1, 4]);
    assert_eq!(order(Order::Rtt, false), [1, 2, 3, 4], "what was not measured comes last");
    assert_eq!(order(Order::Rtt, true), [2, 1, 3, 4], "also then");
    assert_eq!(order(Order::Failures, false)[0], 3);
    assert_eq!(order(Order::Retransmits, false)[0], 2);
    assert_eq!(order(Order::Start, false), [4, 3, 2, 1]);
}

#[test]
fn a_limit_takes_the_first_and_counts_all() {
    let all = top(View::Flows, Order::Rate, false, 2, "", |_| {});
    assert_eq!((ids(&all), all.rows_total, all.flows), (vec![2, 3], 4, 4));
    assert_eq!((all.bytes_per_s, all.failed["refused"]), (57.0, 1));
    assert_eq!(top(View::Flows, Order::Rate, false, 0, "", |_| {}).rows.len(), 0);
    let some = top(View::Flows, Order::Rate, false, 10, "client_ip=10.0.0.1 and server_port=80", |_| {});
    assert_eq!((ids(&some), some.flows), (vec![2, 1], 2));
}

#[test]
fn pairs_and_services_sum_up_their_flows() {
    let pairs = top(View::Pairs, Order::Flows, false, 10, "", |_| {});
    let shown: Vec<_> =
        pairs.rows.iter().map(|row| (row.client.as_deref().unwrap(), row.server.as_str(), row.flows)).collect();
    assert_eq!(shown, [("10.0.0.1", "10.0.0.9", 2), ("10.0.0.2", "10.0.0.9", 1), ("10.0.0.1", "10.0.0.8", 1)]);
    let first = &pairs.rows[0];
    assert_eq!((first.bytes, first.bytes_per_s, first.retransmits, first.rtt_us), (400, 40.0, 2, Some(3000.0)));
    assert_eq!(first.filter, "client_ip=10.0.0.1 and server_ip=10.0.0.9");
    assert!(first.flow.is_none() && first.protocol.is_none());

    let services = top(View::Services, Order::Failures, false, 10, "", |_| {});
    let shown: Vec<_> = services.rows.iter().map(|row| (row.server.as_str(), row.flows, row.failed.len())).collect();
    assert_eq!(shown, [("10.0.0.9:80", 3, 1), ("10.0.0.8:53", 1, 0)]);
    assert_eq!(services.rows[1].filter, "protocol=udp and server_ip=10.0.0.8 and server_port=53");
    assert_eq!(top(View::Services, Order::Rate, false, 1, "", |_| {}).rows_total, 2);
}

#[test]
fn names_go_before_addresses_and_join_them() {
    // Both servers are one service, and all clients but host 2 one workload.
    fn named(line: &mut Line) {
        let some = |text: &str| Some(Arc::from(text));
        let party = |party: Party| Some(Ends(Arc::new(party)));
        line.server = party(Party { service: some("shop"), namespace: some("web"), ..Party::default() });
        if line.client_ip == Some("10.0.0.1".parse().unwrap()) {
            line.client = party(Party { workload: some("front"), namespace: some("web"), ..Party::default() });
        }
    }
    let services = top(View::Services, Order::Rate, false, 10, "protocol=tcp", named);
    assert_eq!((services.rows.len(), services.rows[0].server.as_str(), services.rows[0].flows), (1, "web/shop", 3));
    let pairs = top(View::Pairs, Order::Rate, false, 10, "", named);
    assert_eq!(pairs.rows[0].client.as_deref(), Some("web/front"));
    let flow = &top(View::Flows, Order::Bytes, false, 1, "", named).rows[0];
    assert_eq!((flow.client.as_deref(), flow.server.as_str()), (Some("web/front:40002"), "web/shop:80"));
}

/// As `flows dump` has them.
#[test]
fn a_node_a_service_and_a_network_have_names_too() {
    fn named(line: &mut Line) {
        let some = |text: &str| Some(Arc::from(text));
        let node = Party { node: some("node-a"), zone: some("z1"), ..Party::default() };
        let service = Party { service: some("dns"), namespace: some("kube-system"), ..Party::default() };
        let pod = Party { workload: some("web"), pod: some("web-1"), namespace: some("shop"), ..node.clone() };
        let served = Party { service: some("web"), ..pod.clone() };
        let network = Party { name: some("corp"), ..Party::default() };
        let (client, server) = match (line.client_ip.unwrap().to_string().as_str(), line.server_port) {
            ("10.0.0.1", Some(53)) => (node, service),
            ("10.0.0.1", _) if line.client_port == Some(40_001) => (node, served),
            ("10.0.0.1", _) => (pod, network),
            _ => (network, pod),
        };
        (line.client, line.server) = (Some(Ends(Arc::new(client))), Some(Ends(Arc::new(server))));
    }
    let flows = top(View::Flows, Order::Start, true, 10, "", named).rows;
    let shown: Vec<_> = flows.iter().map(|row| (row.client.as_deref().unwrap(), row.server.as_str())).collect();
    let wanted = [
        ("node-a:40001", "shop/web:80"),
        ("shop/web:40002", "corp:80"),
        ("corp:40003", "shop/web:80"),
        ("node-a:40004", "kube-system/dns:53"),
    ];
    assert_eq!(shown, wanted);
    let services = top(View::Services, Order::Rate, false, 10, "protocol=udp", named).rows;
    assert_eq!(services[0].server, "kube-system/dns");
    // The filter of a pair finds its flow, and none of another pair.
    for (row, wanted) in flows.iter().zip(wanted) {
        let line = row.flow.as_ref().unwrap();
        let pair = View::Pairs.named(line);
        let found = top(View::Flows, Order::Rate, false, 10, &pair.filter, named).rows;
        let ids: Vec<u64> = found.iter().map(|found| found.flow.as_ref().unwrap().id).collect();
        assert_eq!(ids, [line.id], "{wanted:?}: {}", pair.filter);
    }
}

/// The filter of a row finds the flows that are in it.
#[test]
fn a_row_is_found_by_its_filter() {
    fn named(line: &mut Line) {
        let party = Party {
            service: Some("shop".into()),
            workload: Some("shop-v1".into()),
            namespace: Some("web".into()),
            ..Party::default()
        };
        if line.server_port == Some(80) {
            line.server = Some(Ends(Arc::new(party)));
        }
    }
    let pairs = top(View::Pairs, Order::Rate, false, 10, "", named).rows;
    let filter = "client_ip=10.0.0.1 and server_workload=\"shop-v1\" and server_namespace=\"web\"";
    assert_eq!(pairs[0].filter, filter);
    let services = top(View::Services, Order::Rate, false, 10, "", named).rows;
    let filter = "protocol=tcp and server_service=\"shop\" and server_namespace=\"web\"";
    assert_eq!((services[0].filter.as_str(), services[0].server.as_str()), (filter, "web/shop"));
    for row in pairs.iter().chain(&services) {
        let found = top(View::Flows, Order::Rate, false, 10, &row.filter, named);
        assert_eq!((found.flows, found.bytes_per_s), (row.flows, row.bytes_per_s), "{}", row.filter);
    }
    for view in [View::Flows, View::Pairs, View::Services] {
        for row in top(view, Order::Rate, false, 10, "", |_| {}).rows {
            let found = top(View::Flows, Order::Rate, false, 10, &row.filter, |_| {});
            assert_eq!((found.flows, found.bytes_per_s), (row.flows, row.bytes_per_s), "{}", row.filter);
        }
    }
}

#[test]
fn groups_take_no_more_than_they_may() {
    for (bytes, fits) in [(GROUP_BYTES, false), (2 * GROUP_BYTES, false), (64 * GROUP_BYTES, true)] {
        for view in [View::Pairs, View::Services] {
            let mut ranking = Ranking::new(view, Order::Flows, false, 10, None, room(bytes));
            for flow in &flows() {
                let line = &mut |flow: &Flow| Line::new(1, flow, &LineContext::default());
                ranking.add(RatedFlow { flow, rate: Rate::default(), line });
            }
            assert_eq!(ranking.finish().is_ok(), fits, "{view:?} in {bytes} bytes");
        }
    }
}

#[test]
fn what_is_known_early_is_what_the_line_says() {
    let context = LineContext { interface: Some("eth0".to_owned()), directions: true, ..LineContext::default() };
    for flow in &flows() {
        let (early, line) = (Line::early(flow, true), Line::new(7, flow, &context));
        for field in crate::filter::FIELDS.iter().filter(|field| !field.late) {
            assert_eq!((field.values)(&early), (field.values)(&line), "{}", field.name);
        }
    }
}
