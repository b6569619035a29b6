//! Connections that succeed all the time, as many as a small service has.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cluster::{API, Cluster, FRONT};
use crate::live::PATIENCE;
use crate::live::traffic::listen;

const PORT: u16 = 8081;
/// Clients, each with one connection at a time.
const CLIENTS: usize = 6;

/// The clients and the server, which end when this value is dropped.
pub struct Background {
    /// For the clients, and for the server, which serves the last of them.
    stop: [Arc<AtomicBool>; 2],
    made: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
    server: Option<JoinHandle<()>>,
}

fn answer(mut stream: TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream.write_all(b"!").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => drop(scope.spawn(|| answer(stream))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("accept: {error}"),
            }
        }
    });
}

fn ask(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"?").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

impl Background {
    /// The frontend asks the service, from now on.
    pub fn start(cluster: &Cluster) -> Background {
        let listener = listen(&cluster.api, SocketAddr::new(API.parse().unwrap(), PORT));
        listener.set_nonblocking(true).unwrap();
        let stop = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let made = Arc::new(AtomicU64::new(0));
        let stopped = Arc::clone(&stop[1]);
        let server = std::thread::spawn(move || serve(&listener, &stopped));
        let to = SocketAddr::new(FRONT.parse().unwrap(), PORT);
        let client = |_| {
            let (stopped, made) = (Arc::clone(&stop[0]), Arc::clone(&made));
            let run = move || {
                while !stopped.load(Ordering::Relaxed) {
                    ask(to);
                    made.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(100));
                }
            };
            cluster.frontend.run(|| std::thread::spawn(run))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Background { stop, made, clients, server: Some(server) }
    }

    /// Connections so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Lets the pod of the service drop a third of what it receives.
    pub fn lose(&self, cluster: &Cluster) {
        cluster.api.sh(&format!(
            "nft add table ip loss && nft \"add chain ip loss in {{ type filter hook input priority 0; }}\"
             nft \"add rule ip loss in tcp dport {PORT} numgen random mod 3 == 0 drop\""
        ));
    }

    /// Lets it receive everything again.
    pub fn lose_nothing(&self, cluster: &Cluster) {
        cluster.api.sh("nft delete table ip loss");
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop[0].store(true, Ordering::Relaxed);
        let ended: Vec<bool> = self.clients.drain(..).map(|client| client.join().is_ok()).collect();
        self.stop[1].store(true, Ordering::Relaxed);
        let served = self.server.take().is_none_or(|server| server.join().is_ok());
        let all_well = served && !ended.contains(&false);
        assert!(all_well || std::thread::panicking(), "a connection of the background has failed");
    }
}
