//! Connections that really fail, one way each, and some that are slow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::cluster::{Cluster, DB, GONE, WEB};
use crate::live::PATIENCE;
use crate::live::traffic::listen;

/// A way to fail: its `reason` in metrics, the workload that is dialled, and what makes it fail.
pub struct Failure {
    pub reason: &'static str,
    pub to: &'static str,
    pub how: &'static str,
    once: fn(&Cluster),
}

/// Ports of the database that do not answer, that lose each second SYN, and that end connections with RST.
const SILENT: u16 = 5433;
const LOSSY: u16 = 5434;
const RESETTING: u16 = 5432;

pub const FAILURES: [Failure; 4] = [
    Failure { reason: "refused", to: "db", how: "nobody listens at the port", once: refused },
    Failure { reason: "timeout", to: "db", how: "a filter in the pod drops the SYN", once: timed_out },
    Failure { reason: "reset_server", to: "db", how: "the server ends the connection with RST", once: reset },
    Failure { reason: "unreachable", to: "gone", how: "its node answers with ICMP", once: unreachable },
];

impl Failure {
    /// Lets the frontend fail once.
    pub fn happen(&self, cluster: &Cluster) {
        (self.once)(cluster);
    }
}

/// Lets the database's pod drop what [`FAILURES`] and [`late`] need.
pub fn prepare(cluster: &Cluster) {
    cluster.db.sh(&format!(
        "nft add table ip t && nft \"add chain ip t in {{ type filter hook input priority 0; }}\"
         nft add rule ip t in tcp dport {SILENT} drop
         nft \"add rule ip t in tcp dport {LOSSY} tcp flags & (syn | ack) == syn numgen inc mod 2 == 0 drop\""
    ));
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn refused(cluster: &Cluster) {
    cluster.frontend.run(|| assert!(TcpStream::connect(at(DB, 9)).is_err(), "refused"));
}

/// One SYN: the client gives up before it would send a second one.
fn try_once(cluster: &Cluster, to: SocketAddr) {
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(100));
    cluster.frontend.run(|| assert!(connect().is_err(), "{to} does not answer"));
}

fn timed_out(cluster: &Cluster) {
    try_once(cluster, at(DB, SILENT));
}

/// The ICMP error mostly arrives while the client is still busy with sending, and then it waits for another one.
fn unreachable(cluster: &Cluster) {
    try_once(cluster, at(GONE, 80));
}

fn reset(cluster: &Cluster) {
    let listener = listen(&cluster.db, at(DB, RESETTING));
    let mut client = cluster.frontend.run(|| TcpStream::connect(at(DB, RESETTING)).unwrap());
    let (mut served, _) = listener.accept().unwrap();
    // A request that gets no answer.
    client.write_all(b"?").unwrap();
    served.read_exact(&mut [0]).unwrap();
    socket2::SockRef::from(&served).set_linger(Some(Duration::ZERO)).unwrap();
    drop(served);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(client.read(&mut [0]).is_err(), "reset");
}

/// A scan of closed ports, by the cache. They are twice as many as make an event.
pub fn scan(cluster: &Cluster) {
    cluster.cache.run(|| {
        for port in 1001..=1030 {
            assert!(TcpStream::connect(at(WEB, port)).is_err(), "nobody listens at {port}");
        }
    });
}

/// A connection whose first SYN is lost.
pub fn late(cluster: &Cluster) {
    let listener = listen(&cluster.db, at(DB, LOSSY));
    let mut client = cluster.frontend.run(|| TcpStream::connect(at(DB, LOSSY)).unwrap());
    drop(listener.accept().unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}
