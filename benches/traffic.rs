//! Traffic at a low rate, as most nodes have it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::netns::{Netns, pair};

/// Connections a second.
pub const RATE: u32 = 1000;
const REQUEST: &[u8] = b"how are you?";
/// Flows of [`Place::trickle`].
const FLOWS: u16 = 10_000;
const FIRST_PORT: u16 = 20_000;

/// A veth, and traffic from one end of it to the other, `va` in `server`.
pub struct Place {
    client: Netns,
    listener: TcpListener,
    sender: UdpSocket,
    pub server: Netns,
}

impl Place {
    pub fn new() -> Result<Place> {
        let (server, client) = pair();
        // Datagrams end there: no host answers them.
        server.sh("ip route add blackhole 10.10.0.1");
        client.sh("ip route add 10.10.0.1 via 10.9.0.1");
        let listener = server.run(|| TcpListener::bind("10.9.0.1:0"))?;
        let sender = client.run(|| UdpSocket::bind("10.9.0.2:0"))?;
        Ok(Place { client, listener, sender, server })
    }

    /// One packet a second for each of [`FLOWS`] flows.
    pub fn trickle(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        for i in 0..u64::from(FLOWS) * time.as_secs() {
            let due = start + Duration::from_nanos(i * (1_000_000_000 / u64::from(FLOWS)));
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(early);
            }
            let port = FIRST_PORT + (i % u64::from(FLOWS)) as u16;
            self.sender.send_to(&[b'.'; 100], ("10.10.0.1", port)).context("send a datagram")?;
        }
        Ok(())
    }

    /// [`RATE`] connections a second.
    pub fn connect(&self, time: Duration) -> Result<()> {
        connect(&self.listener, &self.client, RATE * time.as_secs() as u32)
    }
}

/// Opens connections at [`RATE`], each with a request and a response, and closes them. The client closes first, so that its port
/// is not reused at once and each connection is a flow of its own.
fn connect(listener: &TcpListener, client: &Netns, count: u32) -> Result<()> {
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<()> {
            for _ in 0..count {
                let (mut stream, _) = listener.accept()?;
                let mut request = [0; REQUEST.len()];
                stream.read_exact(&mut request)?;
                stream.write_all(&request)?;
                ensure!(stream.read(&mut request)? == 0, "the client should have closed first");
            }
            Ok(())
        });
        let made = client.run(|| -> Result<()> {
            let start = Instant::now();
            for i in 0..count {
                let due = start + Duration::from_secs(1) * i / RATE;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(REQUEST)?;
                stream.read_exact(&mut [0; REQUEST.len()])?;
            }
            Ok(())
        });
        made.context("connect")?;
        match server.join() {
            Ok(result) => result.context("serve"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
