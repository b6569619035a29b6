//! What the kernel tells of the network of this namespace, by netlink: all of it when asked, and changes as they come.

use std::io::ErrorKind;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{SockFilter, SockRef};

use super::ring::Wakeup;

/// struct nlmsghdr.
const NETLINK_HEADER_BYTES: usize = 16;
/// Room for the changes that come while others are being dealt with; taken only when they do.
pub(super) const QUEUE_BYTES: usize = 16 << 20;

/// What a netlink family speaks.
pub(super) trait Family: NetlinkSerializable + NetlinkDeserializable {
    const PROTOCOL: isize;
}

impl Family for RouteNetlinkMessage {
    const PROTOCOL: isize = NETLINK_ROUTE;
}

/// Gives every message of a dump to `take`.
pub(super) fn dump<M: Family>(request: M, mut take: impl FnMut(M)) -> Result<()> {
    let socket = send(request, NLM_F_DUMP | NLM_F_REQUEST)?;
    let mut decoder = Decoder::default();
    loop {
        let (datagram, _) = socket.recv_from_full().context("read the kernel's answer")?;
        if decoder.decode(&datagram, &mut take)? {
            return Ok(());
        }
    }
}

/// Asks for one thing.
pub(super) fn get<M: Family>(request: M, take: impl FnMut(M)) -> Result<()> {
    let socket = send(request, NLM_F_REQUEST)?;
    let (datagram, _) = socket.recv_from_full().context("read the kernel's answer")?;
    Decoder::default().decode(&datagram, take)?;
    Ok(())
}

fn send<M: Family>(request: M, flags: u16) -> Result<Socket> {
    let mut socket = Socket::new(M::PROTOCOL).context("open a netlink socket")?;
    socket.bind_auto().context("bind a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("connect a netlink socket")?;
    let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
    request.header.flags = flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).context("ask the kernel")?;
    Ok(socket)
}

/// Reads messages out of datagrams.
#[derive(Debug, Default)]
struct Decoder {
    complained: bool,
}

impl Decoder {
    /// True if that was the end of a dump.
    fn decode<M: Family>(&mut self, datagram: &[u8], mut take: impl FnMut(M)) -> Result<bool> {
        let mut rest = datagram;
        while let Some(length) = length(rest) {
            match NetlinkMessage::<M>::deserialize(&rest[..length]).map(|message| message.payload) {
                Ok(NetlinkPayload::Done(_)) => return Ok(true),
                Ok(NetlinkPayload::Error(error)) => bail!("the kernel refuses: {}", error.to_io()),
                Ok(NetlinkPayload::InnerMessage(message)) => take(message),
                Ok(_) => {}
                // Of a kind that is younger than this program. Said once: there may be very many.
                Err(error) if !self.complained => {
                    log::warn!("a message of the kernel about the network is not understood: {error}");
                    self.complained = true;
                }
                Err(_) => {}
            }
            // Messages are aligned to four bytes (NLMSG_ALIGN).
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(false)
    }
}

/// Of the message that `bytes` begin with; `None` if there is none.
fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.first_chunk().copied()?) as usize;
    (NETLINK_HEADER_BYTES..=bytes.len()).contains(&length).then_some(length)
}

/// Changes, as they come.
#[derive(Debug)]
pub(super) struct Changes<M> {
    socket: Socket,
    decoder: Decoder,
    messages: PhantomData<fn() -> M>,
}

/// What a wait for changes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// There are some to be read, or the time is over.
    Changes,
    /// The wait was ended from outside.
    Ended,
}

impl<M: Family> Changes<M> {
    /// From now on, of these groups, as far as `filter` lets them pass (none: all), and as many as fit into `queue_bytes`.
    pub(super) fn of(groups: &[u32], filter: &[SockFilter], queue_bytes: usize) -> Result<Changes<M>> {
        let mut socket = Socket::new(M::PROTOCOL).context("open a netlink socket")?;
        // Without the privilege the ordinary queue has to do: what it cannot hold is noticed.
        if let Err(error) = setsockopt(&socket, RcvBufForce, &queue_bytes) {
            log::debug!("the queue for changes of the network stays small: {error}");
        }
        if !filter.is_empty() {
            SockRef::from(&socket).attach_filter(filter).context("filter changes of the network")?;
        }
        socket.bind_auto().context("bind a netlink socket")?;
        for group in groups {
            socket.add_membership(*group).context("subscribe to changes of the network")?;
        }
        socket.set_non_blocking(true).context("make a netlink socket non-blocking")?;
        Ok(Changes { socket, decoder: Decoder::default(), messages: PhantomData })
    }

    /// The socket once more: to ask whether there is something to be read.
    pub(super) fn duplicate(&self) -> Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned().context("duplicate a netlink socket")
    }

    /// The filter is not to be asked any more.
    pub(super) fn let_all_pass(&self) -> Result<()> {
        SockRef::from(&self.socket).detach_filter().context("take the filter of netlink messages away")
    }

    /// Sleeps until something changes, `timeout` is over, or `wakeup` is raised.
    pub(super) fn wait(&self, timeout: Duration, wakeup: &Wakeup) -> Result<Arrival> {
        let mut fds =
            [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN), PollFd::new(wakeup.fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            Ok(_) if fds[1].any().unwrap_or(false) => Ok(Arrival::Ended),
            Ok(_) | Err(Errno::EINTR) => Ok(Arrival::Changes),
            Err(errno) => Err(errno).context("wait for changes of the network"),
        }
    }

    /// Gives every change that has come to `take`. False if there were more than the queue could hold: ask for all anew.
    pub(super) fn read(&mut self, mut take: impl FnMut(M)) -> Result<bool> {
        let mut whole = true;
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    self.decoder.decode(&datagram, &mut take)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(whole),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => whole = false,
                Err(error) => return Err(error).context("read changes of the network"),
            }
        }
    }
}
