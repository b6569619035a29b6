//! The sockets that a server has: TCP or Unix.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::geteuid;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Bytes of a stream that the kernel keeps for a client; it takes twice as much memory for them.
const KEPT: usize = 128 << 10;

/// A socket that listens, before there is an event loop for it. It does not block.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// A socket that listens.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection's socket.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Bound {
    /// To be called inside the event loop.
    pub(super) fn listen(self) -> io::Result<Listener> {
        Ok(match self {
            Bound::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
            Bound::Unix(listener) => Listener::Unix(UnixListener::from_std(listener)?),
        })
    }
}

impl Listener {
    /// The next connection, and the address of its other end if that has one.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                listener.accept().await.map(|(stream, there)| (Stream::Tcp(stream), Some(there)))
            }
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), None)),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// The address of this end.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// The user and the process at the other end of a Unix socket, unless it is root or the agent's own user.
    pub(super) fn stranger(&self) -> io::Result<Option<(u32, Option<i32>)>> {
        let Stream::Unix(stream) = self else { return Ok(None) };
        let peer = stream.peer_cred()?;
        let known = peer.uid() == 0 || peer.uid() == geteuid().as_raw();
        Ok((!known).then_some((peer.uid(), peer.pid())))
    }

    fn poll_ready(&self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        match (self, interest.is_readable()) {
            (Stream::Tcp(stream), true) => stream.poll_read_ready(cx),
            (Stream::Tcp(stream), false) => stream.poll_write_ready(cx),
            (Stream::Unix(stream), true) => stream.poll_read_ready(cx),
            (Stream::Unix(stream), false) => stream.poll_write_ready(cx),
        }
    }

    /// Repeats `act` until it does not block; without waiting for that.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut act: impl FnMut(&Stream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_ready(cx, interest))?;
            match act(self) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, Interest::READABLE, |stream| stream.try_read(bytes))
    }

    /// Waits for a byte and leaves it. `None`: the other end has ended its side.
    pub(super) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u8>>> {
        self.poll(cx, Interest::READABLE, |stream| {
            let mut byte = [0];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
            let mut peek = || Ok(recv(stream.as_fd().as_raw_fd(), &mut byte, flags)?);
            let count = match stream {
                Stream::Tcp(stream) => stream.try_io(Interest::READABLE, &mut peek),
                Stream::Unix(stream) => stream.try_io(Interest::READABLE, &mut peek),
            }?;
            Ok((count > 0).then_some(byte[0]))
        })
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll(cx, Interest::WRITABLE, |stream| match stream {
            Stream::Tcp(stream) => stream.try_write_vectored(parts),
            Stream::Unix(stream) => stream.try_write_vectored(parts),
        })
    }

    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_read(bytes),
            Stream::Unix(stream) => stream.try_read(bytes),
        }
    }

    /// Writes what the kernel takes at once.
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
    }

    /// Something has come that was not read yet.
    pub(super) fn has_sent(&self) -> bool {
        SockRef::from(self).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|bytes| bytes > 0)
    }

    /// It has made room for more than was written.
    pub(super) fn has_room(&self) -> bool {
        let mut this = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
        poll(&mut this, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// No more is written.
    pub(super) fn shut_down(&self) -> io::Result<()> {
        SockRef::from(self).shutdown(Shutdown::Write)
    }

    /// Reads what has come and leaves it, up to `most` bytes; how many that were. Otherwise a close would destroy an answer that the
    /// client has not read yet.
    pub(super) fn discard(&self, most: usize) -> usize {
        let (mut piece, mut count) = ([0; 4096], 0);
        while count < most
            && let Ok(bytes @ 1..) = recv(self.as_fd().as_raw_fd(), &mut piece, MsgFlags::MSG_DONTWAIT)
        {
            count += bytes;
        }
        count
    }

    /// How long the kernel keeps what the other end does not acknowledge. A Unix socket keeps nothing on its own.
    pub(super) fn keep_for(&self, time: Duration) {
        if let Stream::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_tcp_user_timeout(Some(time));
        }
    }

    /// The kernel keeps little of an answer: a Unix socket always does.
    pub(super) fn keep_little(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_send_buffer_size(KEPT);
        }
    }

    /// The kernel drops what was not sent yet as soon as the socket is closed.
    pub(super) fn keep_nothing(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}
