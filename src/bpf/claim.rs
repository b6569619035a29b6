//! Ensures that only one agent runs in a network namespace. An agent holds a socket with an abstract name. Such names belong to the
//! namespace just as interfaces do, so exactly the agents that share it, in whatever container, see each other.
//!
//! Anybody there may take such a name. A socket therefore counts as an agent's only if root created it, or a process that may
//! administer the network, which it proves by a receive buffer of a size that nobody else can set. Other holders of the name are
//! ignored.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlasIterator};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::netlink::{Family, dump};

const NAME: &str = "netmon-agent";
/// Number of names tried, if others hold some; an agent needs only one.
const NAMES_MOST: u32 = 1000;
/// Requests the largest possible receive buffer; the kernel doubles what is requested (INT_MAX, net/core/sock.c). Without
/// CAP_NET_ADMIN this would need a net.core.rmem_max of a gigabyte.
const SEAL: usize = (i32::MAX / 2) as usize;
const SEALED: u32 = 2 * SEAL as u32;

/// Holds the network namespace for one agent; released when dropped, and by the kernel if the agent is killed.
#[derive(Debug)]
pub struct HostClaim(#[expect(dead_code, reason = "holds the name")] UnixDatagram);

/// Claims this network namespace.
///
/// # Errors
///
/// Another agent runs in it, or no name is free.
pub fn claim_host() -> Result<HostClaim> {
    let (claim, own) = take_name()?;
    // Every agent looks for others after taking a name: if two start at once, at least one sees the other.
    match holders() {
        Ok(holders) => {
            for holder in holders.iter().filter(|holder| holder.name != own && is_name(&holder.name)) {
                if holder.is_agent() {
                    return occupied(&holder.name);
                }
                let Holder { name, uid, .. } = holder;
                log::warn!("user {uid} holds the socket @{name} but is not an agent: starting anyway");
            }
        }
        // Without the list, the holder of the name counts as an agent.
        Err(_) if own != NAME => return occupied(NAME),
        Err(error) => log::debug!("cannot check for agents with other names than @{NAME}: {error:#}"),
    }
    Ok(claim)
}

fn occupied<T>(name: &str) -> Result<T> {
    bail!("another netmon agent runs in this network namespace: stop it first (it holds the socket @{name})")
}

/// Takes the first free name. Returns the claim and the name.
fn take_name() -> Result<(HostClaim, String)> {
    for number in 0..NAMES_MOST {
        let name = if number == 0 { NAME.to_owned() } else { format!("{NAME}.{number}") };
        let address = SocketAddr::from_abstract_name(&name).context("name the lock")?;
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => {
                // Commands that only observe lack the privilege, and do not need it.
                if let Err(error) = setsockopt(&socket, RcvBufForce, &SEAL) {
                    log::debug!("the socket @{name} does not show its privilege: {error}");
                }
                return Ok((HostClaim(socket), name));
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).context(format!("claim the host (socket @{name})")),
        }
    }
    bail!(
        "{NAMES_MOST} sockets named @{NAME} are in this network namespace: end the processes that hold them (ss -xap lists them)"
    )
}

fn is_name(name: &str) -> bool {
    let number = name.strip_prefix(NAME).map(|rest| rest.strip_prefix('.').unwrap_or(rest));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A socket of this network namespace with an abstract name, and who created it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holder {
    name: String,
    uid: u32,
    buffer_bytes: u32,
}

impl Holder {
    fn is_agent(&self) -> bool {
        self.uid == 0 || self.buffer_bytes == SEALED
    }
}

/// All sockets with abstract names; an error if the kernel cannot list them (CONFIG_UNIX_DIAG).
fn holders() -> Result<Vec<Holder>> {
    dump(Socket(None), |Socket(holder)| holder).context("list the sockets of this namespace")
}

/// A message about a Unix socket; `None` if that has no abstract name.
#[derive(Debug)]
struct Socket(Option<Holder>);

/// include/uapi/linux/sock_diag.h, unix_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_BYTES: usize = 24;
const MESSAGE_BYTES: usize = 16;
const SHOW_NAME: u32 = 1;
const SHOW_MEMINFO: u32 = 1 << 5;
const SHOW_UID: u32 = 1 << 6;
const DIAG_NAME: u16 = 0;
const DIAG_MEMINFO: u16 = 5;
const DIAG_UID: u16 = 7;
/// Offset of SK_MEMINFO_RCVBUF, the second number.
const RCVBUF_AT: usize = 4;

impl Family for Socket {
    const PROTOCOL: isize = NETLINK_SOCK_DIAG;
}

/// As a request, it asks for all sockets (struct unix_diag_req).
impl NetlinkSerializable for Socket {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        REQUEST_BYTES
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        buffer[0] = nix::libc::AF_UNIX as u8;
        buffer[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        buffer[12..16].copy_from_slice(&(SHOW_NAME | SHOW_MEMINFO | SHOW_UID).to_ne_bytes());
        buffer[16..24].fill(0xff);
    }
}

impl NetlinkDeserializable for Socket {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Socket, DecodeError> {
        let (mut holder, mut named) = (Holder { uid: u32::MAX, ..Holder::default() }, false);
        for attribute in NlasIterator::new(payload.get(MESSAGE_BYTES..).unwrap_or_default()) {
            let attribute = attribute?;
            let value = attribute.value();
            let number =
                |at: usize| value.get(at..).and_then(|rest| rest.first_chunk().copied()).map(u32::from_ne_bytes);
            match attribute.kind() {
                // An abstract name starts with a zero byte, that of a file does not.
                DIAG_NAME if value.first() == Some(&0) => {
                    holder.name = String::from_utf8_lossy(&value[1..]).into_owned();
                    named = true;
                }
                DIAG_MEMINFO => holder.buffer_bytes = number(RCVBUF_AT).unwrap_or_default(),
                DIAG_UID => holder.uid = number(0).unwrap_or(u32::MAX),
                _ => {}
            }
        }
        Ok(Socket(named.then_some(holder)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_agents_may_have() {
        for name in ["netmon-agent", "netmon-agent.1", "netmon-agent.999"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["netmon-agents", "netmon", "netmon-agent.x", "my-netmon-agent"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn who_is_taken_for_an_agent() {
        let holder = |uid, buffer_bytes| Holder { name: NAME.to_owned(), uid, buffer_bytes };
        assert!(holder(0, 212_992).is_agent());
        assert!(holder(65_532, SEALED).is_agent());
        assert!(!holder(65_532, 425_984).is_agent());
    }

    #[test]
    fn sockets_are_told_with_their_makers() {
        let name = format!("netmon-test-{}", std::process::id());
        let _socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let found = match holders() {
            Ok(holders) => holders.into_iter().find(|holder| holder.name == name),
            // A kernel without CONFIG_UNIX_DIAG.
            Err(error) if format!("{error:#}").contains("No such file") => return,
            Err(error) => panic!("{error:#}"),
        };
        assert_eq!(found.unwrap().uid, nix::unistd::geteuid().as_raw());
    }
}
