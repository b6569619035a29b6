//! Who is taken for the client.

use super::*;

/// Of datagrams within a jiffy the program knows the order. If it had no room for that, the ports decide, and if they show
/// nothing, the record that is merged first.
#[test]
fn ports_decide_between_datagrams_of_a_jiffy() {
    let datagram = |port: u16| Record {
        protocol: 17,
        tcp_flags: 0,
        destination: Endpoint { port, ..packet(1, 101).destination },
        ..packet(1, 101)
    };
    // The server's port, whether the order is known, and the client's port if the question and if the answer comes first.
    for (server, first, clients) in [
        (7, false, [4001, 4001]),
        (60_000, true, [4001, 4001]),
        (60_000, false, [60_000, 60_000]),
        (5000, false, [4001, 5000]),
    ] {
        let [asked, answered] = [Record { first, ..datagram(server) }, reply(datagram(server))];
        let orders = [[asked.clone(), answered.clone()], [answered, asked]];
        for (records, client) in orders.iter().zip(clients) {
            let (table, _) = run(records);
            let flow = table.iter().next().unwrap();
            assert_eq!((table.len(), flow.endpoint(usize::from(flow.client)).port), (1, client), "{records:?}");
        }
    }
}

/// Where times are exact, as in a capture, they decide whatever the ports do not, in whatever order records are merged.
#[test]
fn exact_times_decide_what_ports_do_not() {
    for (protocol, ports) in [(58, [0, 0]), (17, [4001, 5000]), (17, [50_000, 60_000])] {
        let end = |end: Endpoint, port| Endpoint { port, ..end };
        let one = packet(1, 101);
        let asked = Record {
            protocol,
            tcp_flags: 0,
            icmp_type: 135,
            source: end(one.source, ports[0]),
            destination: end(one.destination, ports[1]),
            ..one
        };
        let answered = Record { icmp_type: 136, first_ns: asked.first_ns + 100_000, ..reply(asked.clone()) };
        for records in [[asked.clone(), answered.clone()], [answered, asked]] {
            let (table, _) = run(&records);
            let flow = table.iter().next().unwrap();
            assert_eq!(flow.endpoint(usize::from(flow.client)).address, packet(1, 101).source.address, "{records:?}");
        }
    }
}
