//! Traffic of real sockets, and what they report as sent.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use netmon::bpf::Tally;
use netmon::flow::{Flow, Sent};

use super::{PATIENCE, eventually};
use crate::support::netns::Netns;
pub use crate::support::tcp_info::{ETH, TcpSent, ip_header, plain_tcp};

/// A closed connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub from_client: TcpSent,
    pub from_server: TcpSent,
}

impl Connection {
    /// Packets and bytes of the client on the wire.
    pub fn client_on_wire(&self, link_header: u64) -> Tally {
        self.from_client.on_wire(link_header, self.client.ip())
    }

    /// Packets and bytes of the server on the wire.
    pub fn server_on_wire(&self, link_header: u64) -> Tally {
        self.from_server.on_wire(link_header, self.client.ip())
    }
}

/// Sends `bytes` from `a` over each of `streams` simultaneous connections to `server` in `b`, and half as many back.
pub fn transfer(a: &Netns, b: &Netns, server: IpAddr, streams: usize, bytes: usize) -> Vec<Connection> {
    let listener = b.run(|| TcpListener::bind((server, 0)).unwrap());
    let dialled = listener.local_addr().unwrap();
    transfer_to(a, listener, dialled, streams, bytes)
}

/// A listener on a port that another one may just have had: programs that were started in the meantime hold it until
/// they run.
pub fn listen(ns: &Netns, at: SocketAddr) -> TcpListener {
    eventually("the port is free", || ns.run(|| TcpListener::bind(at)).ok())
}

/// Like [`transfer`], with the server at `listener`, which the clients know as `server`.
pub fn transfer_to(
    a: &Netns,
    listener: TcpListener,
    server: SocketAddr,
    streams: usize,
    bytes: usize,
) -> Vec<Connection> {
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            std::thread::scope(|scope| {
                let serve = |_| {
                    let (stream, peer) = listener.accept().unwrap();
                    scope.spawn(move || {
                        receive(&stream, bytes);
                        send(&stream, bytes / 2);
                        // Wait for the client's FIN, so that the end is the same each time.
                        receive(&stream, 0);
                        (peer, stream)
                    })
                };
                let streams: Vec<_> = (0..streams).map(serve).collect();
                streams.into_iter().map(|s| s.join().unwrap()).collect::<Vec<_>>()
            })
        });
        let clients: Vec<(SocketAddr, TcpStream)> = a.run(|| {
            let connect = |_| {
                let stream = TcpStream::connect(server).unwrap();
                (stream.local_addr().unwrap(), stream)
            };
            let clients: Vec<_> = (0..streams).map(connect).collect();
            std::thread::scope(|scope| {
                for (_, stream) in &clients {
                    scope.spawn(move || {
                        send(stream, bytes);
                        receive(stream, bytes / 2);
                        stream.shutdown(Shutdown::Write).unwrap();
                        receive(stream, 0);
                    });
                }
            });
            clients
        });
        let served = serving.join().unwrap();
        clients
            .iter()
            .map(|(client, stream)| {
                let client = *client;
                // Something in between may have translated the client's address: then there is only one connection.
                let same = served.iter().find(|(peer, _)| *peer == client);
                let (_, other) = same.unwrap_or_else(|| served.first().filter(|_| streams == 1).unwrap());
                let mut from_server = TcpSent::of(other);
                // The SYN-ACK was sent before there was a socket that counts it.
                from_server.segments += 1;
                Connection { client, server, from_client: TcpSent::of(stream), from_server }
            })
            .collect()
    })
}

fn send(mut stream: &TcpStream, bytes: usize) {
    let chunk = [7u8; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        left -= stream.write(&chunk[..left.min(chunk.len())]).unwrap();
    }
}

/// Reads `bytes`, or up to the other end's FIN if that is 0, and then sends its own FIN.
fn receive(mut stream: &TcpStream, bytes: usize) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if bytes > 0 {
        let mut left = bytes;
        let mut chunk = vec![0; 64 << 10];
        while left > 0 {
            let room = left.min(chunk.len());
            let read = stream.read(&mut chunk[..room]).unwrap();
            assert!(read > 0, "{left} bytes are missing");
            left -= read;
        }
    } else {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        let _ = stream.shutdown(Shutdown::Write);
    }
}

/// A socket of the calling thread's namespace that sends to `to`.
pub fn udp_to(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// The flow of a connection, among `flows`.
pub fn flow_of(flows: &[Flow], protocol: u8, client: SocketAddr, server: SocketAddr) -> &Flow {
    let is = |flow: &Flow, end: usize, address: SocketAddr| {
        let endpoint = &flow.endpoint(end);
        endpoint.port == address.port() && endpoint.ip(flow.v6()) == address.ip()
    };
    let fits = |flow: &&Flow| {
        let client_end = usize::from(flow.client);
        flow.protocol == protocol && is(flow, client_end, client) && is(flow, 1 - client_end, server)
    };
    let mut found = flows.iter().filter(fits);
    let flow = found.next().unwrap_or_else(|| panic!("no flow {client} -> {server} among {flows:#?}"));
    assert!(found.next().is_none(), "two flows {client} -> {server}");
    flow
}

pub fn tally(sent: &Sent) -> Tally {
    Tally { packets: sent.packets, bytes: sent.bytes }
}

/// A sender of UDP datagrams, each a new flow, that runs until it is stopped or dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends from `ns` to all ports of `to`.
    pub fn start(ns: &Netns, to: IpAddr) -> Flood {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let socket = ns.run(|| UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).unwrap());
        let thread = std::thread::spawn(move || {
            let mut port = 1u16;
            while !stopped.load(Ordering::Relaxed) {
                // An ICMP error about an earlier datagram is returned by this call.
                if socket.send_to(&[0; 32], (to, port)).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                port = port.checked_add(1).unwrap_or(1);
            }
        });
        Flood { stop, sent, thread: Some(thread) }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn stop(mut self) -> u64 {
        self.end();
        self.sent()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}
