//! Two namespaces for clients and servers, connected by a veth pair on which nothing else is sent and every packet is a frame.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::part::{Part, Talk};
use super::ports::Ports;
use crate::support::net::{Counters, End, connect, host, offloads_off};
use crate::support::netns::Netns;
use crate::support::tcp_info::plain_tcp;

/// The interface of the servers, which the agent watches.
pub const LINK: &str = "load0";
const CLIENTS_LINK: &str = "clients0";
/// Host part of the address of the first part's server.
const FIRST: u8 = 10;

/// The namespaces.
pub struct Lab {
    /// Where the clients are.
    pub clients: Netns,
    /// Where the servers and the agent are.
    pub servers: Netns,
}

impl Lab {
    /// Sets them up with an address for each part.
    pub fn new(parts: &[Part]) -> Lab {
        let (clients, servers) = (host("clients"), host("servers"));
        let ends = [End { ns: &clients, link: CLIENTS_LINK, host: 1 }, End { ns: &servers, link: LINK, host: 2 }];
        connect(9, &ends[0], &ends[1]);
        for ns in [&clients, &servers] {
            plain_tcp(ns);
            // What is for nobody goes no further, every refusal is reported, and many connections may wait to be accepted.
            ns.sh("cd /proc/sys/net/ipv4
                   echo 0 >ip_forward
                   echo 0 >icmp_ratelimit
                   echo 4096 >/proc/sys/net/core/somaxconn");
        }
        let add = |addresses: &mut dyn Iterator<Item = Ipv4Addr>, link: &str| -> String {
            addresses.map(|address| format!("ip addr add {address}/32 dev {link}\n")).collect()
        };
        clients.sh(&add(&mut Ports::addresses(), CLIENTS_LINK));
        // The host of silent parts does not exist: the servers' namespace gets its packets, and does not forward them.
        let mut there = (0..parts.len()).filter(|&i| parts[i].talk != Talk::Silent).map(server_address);
        servers.sh(&add(&mut there, LINK));
        clients.sh(&format!("ip route add 10.10.0.0/16 via 10.9.0.2 dev {CLIENTS_LINK}"));
        servers.sh(&format!("ip route add 10.11.0.0/16 via 10.9.0.1 dev {LINK}"));
        offloads_off(&clients, CLIENTS_LINK);
        offloads_off(&servers, LINK);
        Lab { clients, servers }
    }

    /// Counters of the interface that the agent watches, and packets dropped at either end so far.
    pub fn counters(&self) -> Counters {
        let [servers, clients] =
            [(&self.servers, LINK), (&self.clients, CLIENTS_LINK)].map(|(ns, link)| Counters::read(ns, link));
        Counters { dropped: servers.dropped + clients.dropped, ..servers }
    }
}

fn server_address(part: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 10, 0, FIRST + part as u8)
}

/// Where clients of a part, by its place in the plan, connect to.
pub fn server(place: usize, part: &Part) -> SocketAddrV4 {
    SocketAddrV4::new(server_address(place), part.port)
}
