//! Addresses and ports of the clients. Each connection of a part has a pair of its own: whatever reuses one is another connection to
//! TCP, but to UDP the same flow.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};

/// Addresses of the clients: more would take more series than the agent's default limit allows.
const ADDRESSES: u64 = 16;
const FIRST_PORT: u64 = 4096;
/// Ports of an address that are used.
const PORTS: u64 = 60_000;
/// Time after which a pair may be used again: TIME-WAIT, and the agent's `flow.flow_timeout`, are over by then.
const REST: Duration = Duration::from_secs(400);

/// The address of a client.
fn address(number: u64) -> Ipv4Addr {
    Ipv4Addr::new(10, 11, 0, 1 + number as u8)
}

/// The pairs of one part.
#[derive(Debug)]
pub struct Ports {
    next: AtomicU64,
}

impl Ports {
    /// Pairs for `connections` over `duration`.
    ///
    /// # Errors
    ///
    /// They would have to be used again too early.
    pub fn new(connections: u64, duration: Duration) -> Result<Ports> {
        let within_rest = connections as f64 * (REST.as_secs_f64() / duration.as_secs_f64()).min(1.0);
        let most = ADDRESSES * PORTS;
        ensure!(
            within_rest <= most as f64,
            "{connections} connections of one kind in {duration:?}: at most {most} in {REST:?} can be told apart; \
             make fewer, or take longer"
        );
        Ok(Ports { next: AtomicU64::new(0) })
    }

    /// The next pair.
    pub fn take(&self) -> SocketAddrV4 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        SocketAddrV4::new(address(number / PORTS % ADDRESSES), (FIRST_PORT + number % PORTS) as u16)
    }

    /// All addresses.
    pub fn addresses() -> impl Iterator<Item = Ipv4Addr> {
        (0..ADDRESSES).map(address)
    }
}
