//! Reads the state of this namespace's network by netlink: complete lists on request, and changes as they happen.

use std::fmt;
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_core::{
    Emitable, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{SockFilter, SockRef};

use super::ring::Wakeup;

/// struct nlmsghdr.
const NETLINK_HEADER_BYTES: usize = 16;
/// Room for changes that arrive while others are processed; memory is used only as far as they do.
pub(super) const QUEUE_BYTES: usize = 16 << 20;

/// The messages of a netlink family.
pub(super) trait Family: NetlinkSerializable + NetlinkDeserializable {
    const PROTOCOL: isize;
}

/// How many times a list is requested if its content changes while it is read.
const ATTEMPTS: u32 = 50;
/// Pause after the first attempt; it grows with the number of attempts.
const PAUSE: Duration = Duration::from_millis(1);

/// All elements of a list that `take` accepts. The list is complete: if something changes while it is read, it is requested again,
/// because it may lack even elements that did not change.
pub(super) fn dump<M: Family, T>(request: M, take: impl FnMut(M) -> Option<T>) -> Result<Vec<T>> {
    dump_by(take, || {
        let socket = send(&request, NLM_F_DUMP | NLM_F_REQUEST)?;
        Ok(move || socket.recv_from_full().map(|(datagram, _)| datagram))
    })
}

/// As [`dump`], with the answers that `ask` provides.
fn dump_by<M: Family, T, R: FnMut() -> io::Result<Vec<u8>>>(
    mut take: impl FnMut(M) -> Option<T>,
    ask: impl Fn() -> Result<R>,
) -> Result<Vec<T>> {
    for attempt in 1..=ATTEMPTS {
        let (mut answer, mut all, mut decoder) = (ask()?, Vec::new(), Decoder::default());
        let end = loop {
            let datagram = match answer() {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => break End::Cut,
                Err(error) => return Err(error).context("read the kernel's answer"),
            };
            if let Some(end) = decoder.decode(&datagram, |message| all.extend(take(message)))? {
                break end;
            }
        };
        if end == End::Whole && !decoder.interrupted {
            return Ok(all);
        }
        std::thread::sleep(PAUSE * attempt.min(20));
    }
    Err(anyhow!(Interrupted))
}

/// A list of the kernel could not be read completely in [`ATTEMPTS`] attempts.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel's list changed while it was read, {ATTEMPTS} times in a row")
    }
}

impl std::error::Error for Interrupted {}

/// Sends a request that has a single answer.
pub(super) fn get<M: Family>(request: M, take: impl FnMut(M)) -> Result<()> {
    let socket = send(&request, NLM_F_REQUEST)?;
    let (datagram, _) = socket.recv_from_full().context("read the kernel's answer")?;
    Decoder::default().decode(&datagram, take)?;
    Ok(())
}

fn send<M: Family>(request: &M, flags: u16) -> Result<Socket> {
    let mut socket = Socket::new(M::PROTOCOL).context("open a netlink socket")?;
    socket.bind_auto().context("bind a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("connect a netlink socket")?;
    let mut header = NetlinkHeader::default();
    header.length = (NETLINK_HEADER_BYTES + request.buffer_len()) as u32;
    (header.message_type, header.flags) = (request.message_type(), flags);
    let mut bytes = vec![0; header.length as usize];
    header.emit(&mut bytes);
    request.serialize(&mut bytes[NETLINK_HEADER_BYTES..]);
    socket.send(&bytes, 0).context("ask the kernel")?;
    Ok(socket)
}

/// How a list ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With its last message.
    Whole,
    /// Before that: the kernel could not report something at that moment.
    Cut,
}

/// Reads messages out of datagrams.
#[derive(Debug, Default)]
struct Decoder {
    complained: bool,
    /// Something changed while the kernel assembled a list.
    interrupted: bool,
}

impl Decoder {
    /// Gives the messages in a datagram to `take`. Returns how the list ended, if this was its end.
    fn decode<M: Family>(&mut self, datagram: &[u8], mut take: impl FnMut(M)) -> Result<Option<End>> {
        let mut rest = datagram;
        while let Some(length) = length(rest) {
            match NetlinkMessage::<M>::deserialize(&rest[..length]) {
                Ok(message) => {
                    self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                    match message.payload {
                        NetlinkPayload::Done(done) => return ended(done.code).map(Some),
                        NetlinkPayload::Error(error) => bail!("the kernel refuses: {}", error.to_io()),
                        NetlinkPayload::Overrun(_) => return Ok(Some(End::Cut)),
                        NetlinkPayload::InnerMessage(message) => take(message),
                        _ => {}
                    }
                }
                // A kind newer than this program. Logged only once, because there may be very many.
                Err(error) if !self.complained => {
                    log::warn!("cannot decode a message from the kernel about the network: {error}");
                    self.complained = true;
                }
                Err(_) => {}
            }
            // Messages are aligned to four bytes (NLMSG_ALIGN).
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(None)
    }
}

/// Evaluates the last message of a list: a list that the kernel gives up midway ends with an error number.
fn ended(code: i32) -> Result<End> {
    match Errno::from_raw(-code) {
        _ if code >= 0 => Ok(End::Whole),
        // Temporary failures.
        Errno::EINTR | Errno::EAGAIN | Errno::EBUSY | Errno::ENOBUFS | Errno::ENOMEM => Ok(End::Cut),
        errno => Err(errno).context("the kernel broke off its list"),
    }
}

/// Length of the message at the start of `bytes`; `None` if there is none.
fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.first_chunk().copied()?) as usize;
    (NETLINK_HEADER_BYTES..=bytes.len()).contains(&length).then_some(length)
}

/// Receives changes as they happen.
#[derive(Debug)]
pub(super) struct Changes<M> {
    socket: Socket,
    decoder: Decoder,
    messages: PhantomData<fn() -> M>,
}

/// The result of a wait for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// There may be changes to read: some have arrived, or the timeout is over.
    Changes,
    /// The wait was ended from outside.
    Ended,
}

impl<M: Family> Changes<M> {
    /// Subscribes to the changes of these groups that pass `filter` (empty: all), with a queue of `queue_bytes`.
    pub(super) fn of(groups: &[u32], filter: &[SockFilter], queue_bytes: usize) -> Result<Changes<M>> {
        let mut socket = Socket::new(M::PROTOCOL).context("open a netlink socket")?;
        // Without the privilege the default queue must suffice; if it overflows, that is noticed.
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

    /// A second descriptor of the socket, to poll whether there is something to read.
    pub(super) fn duplicate(&self) -> Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned().context("duplicate a netlink socket")
    }

    /// Removes the filter.
    pub(super) fn let_all_pass(&self) -> Result<()> {
        SockRef::from(&self.socket).detach_filter().context("remove the filter of netlink messages")
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

    /// Gives every change that has arrived to `take`. False if there were more than the queue could hold: a complete list is needed.
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

#[cfg(test)]
mod tests {
    use netlink_packet_core::DecodeError;

    use super::*;

    /// A number.
    #[derive(Debug)]
    struct Number(u32);

    impl NetlinkSerializable for Number {
        fn message_type(&self) -> u16 {
            NUMBER
        }

        fn buffer_len(&self) -> usize {
            4
        }

        fn serialize(&self, buffer: &mut [u8]) {
            buffer.copy_from_slice(&self.0.to_ne_bytes());
        }
    }

    impl NetlinkDeserializable for Number {
        type Error = DecodeError;

        fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Number, DecodeError> {
            Ok(Number(u32::from_ne_bytes(payload.try_into().map_err(|_| DecodeError::from("no number"))?)))
        }
    }

    impl Family for Number {
        const PROTOCOL: isize = 0;
    }

    const NUMBER: u16 = 100;
    const DONE: u16 = 3;
    const ERROR: u16 = 2;

    fn message(kind: u16, flags: u16, value: i32) -> Vec<u8> {
        let mut bytes = 20u32.to_ne_bytes().to_vec();
        bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
        bytes.extend([0; 8]);
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    /// The result if the kernel answers with these lists one after the other.
    fn listed(answers: &[&[Vec<u8>]]) -> Result<Vec<u32>> {
        let asked = std::cell::Cell::new(0);
        dump_by(
            |Number(number)| Some(number),
            || {
                let number = asked.replace(asked.get() + 1);
                let mut datagrams = answers[number.min(answers.len() - 1)].iter().cloned();
                Ok(move || datagrams.next().ok_or_else(|| io::Error::from_raw_os_error(Errno::ENOBUFS as i32)))
            },
        )
    }

    const INTR: u16 = NLM_F_DUMP_INTR;

    #[test]
    fn a_list_that_was_interrupted_is_asked_for_anew() {
        let number = |number| message(NUMBER, 2, number);
        let whole = [number(1), number(2), message(DONE, 2, 0)];
        assert_eq!(listed(&[&whole]).unwrap(), [1, 2]);
        for cut in [
            // Interrupted in any of its messages, including the last.
            vec![message(NUMBER, 2 | INTR, 1), message(DONE, 2, 0)],
            vec![number(1), message(DONE, 2 | INTR, 0)],
            // Given up by the kernel.
            vec![number(1), message(DONE, 2, -(Errno::EAGAIN as i32))],
            // Its end was lost.
            vec![number(1)],
        ] {
            assert_eq!(listed(&[&cut, &cut, &whole]).unwrap(), [1, 2], "{cut:?}");
        }
    }

    #[test]
    fn one_that_is_never_whole_is_an_error() {
        let cut = [message(NUMBER, 2 | INTR, 1), message(DONE, 2, 0)];
        assert!(listed(&[&cut]).unwrap_err().is::<Interrupted>());
        let refused = [message(DONE, 2, -(Errno::EPERM as i32))];
        assert!(format!("{:#}", listed(&[&refused]).unwrap_err()).contains("broke off"));
        let error = [message(ERROR, 0, -(Errno::EPERM as i32))];
        assert!(listed(&[&error]).is_err());
    }
}
