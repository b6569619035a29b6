//! One connection, with a time limit for everything a client can be slow at.
//!
//! hyper has one clock for reading a request's header (`header_read_timeout`). It starts when the
//! connection opens and starts again as soon as an answer is written, so that it also cuts idle
//! keep-alive connections: with 5 s, every scrape of a Prometheus would need a new connection.
//! It has no clock for writing. Both are replaced here by one deadline for each connection, which
//! follows what happens on the socket (see [`Phase`]). Others see that too: who makes no use of its place makes way.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Limits;
use super::answer::Answers;
use crate::clients::{Client, Phase};

/// Prometheus sends six headers; hyper answers 431 to a request with more than this.
const HEADERS_MAX: usize = 64;
/// hyper panics when its buffer is set smaller than this.
const HYPER_BUFFER_MIN: usize = 8192;

/// Serves one connection until it ends, is late, or the server stops; with `keep`, more than one
/// request.
pub(super) async fn serve(
    stream: Arc<TcpStream>,
    limits: Limits,
    keep: bool,
    client: Arc<Client>,
    answers: Rc<Answers>,
    mut stop: watch::Receiver<()>,
) -> anyhow::Result<()> {
    let mut http = http1::Builder::new();
    http.max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(HYPER_BUFFER_MIN))
        .max_headers(HEADERS_MAX)
        .header_read_timeout(None)
        .keep_alive(keep);
    let clock = Rc::new(Clock::new(limits, client));
    let io = TokioIo::new(Watched { stream, clock: clock.clone() });
    let service = service_fn(|request| {
        let (answers, clock) = (Rc::clone(&answers), Rc::clone(&clock));
        async move { Ok::<_, Infallible>(answers.answer(&request, &clock).await) }
    });
    let mut served = http.serve_connection(io, service);
    let mut alarm = pin!(sleep_until(clock.deadline.get()));
    let mut stop = pin!(stop.changed());
    let mut stopping = false;
    poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut served).graceful_shutdown();
        }
        if let Poll::Ready(end) = Pin::new(&mut served).poll(cx) {
            return Poll::Ready(end.context("serve a connection"));
        }
        if alarm.deadline() != clock.deadline.get() {
            alarm.as_mut().reset(clock.deadline.get());
        }
        let late = || anyhow!("closed: took too long in phase {:?}", clock.client.phase());
        alarm.as_mut().poll(cx).map(|()| Err(late()))
    })
    .await
}

/// One deadline for each connection: set when the phase changes, and never put off by progress
/// within a phase, so that a byte now and then does not keep a connection.
pub(super) struct Clock {
    limits: Limits,
    client: Arc<Client>,
    deadline: Cell<Instant>,
}

impl Clock {
    fn new(limits: Limits, client: Arc<Client>) -> Self {
        let deadline = Cell::new(Instant::now() + limits.header_time);
        Self { limits, client, deadline }
    }

    /// A page is in the making.
    pub(super) fn making(&self) {
        self.enter(Phase::Making);
    }

    fn enter(&self, phase: Phase) {
        let before = self.client.phase();
        let now = Instant::now();
        if !self.client.enter(phase, now.into_std()) {
            return;
        }
        let time = match phase {
            // The time for the request's header is that since it was opened.
            Phase::Silent | Phase::Asking if before == Phase::Silent => return,
            Phase::Silent | Phase::Asking => self.limits.header_time,
            Phase::Making => self.limits.making_time,
            Phase::Answering => self.limits.connection_time,
            Phase::Idle => self.limits.idle,
            Phase::Gone => Duration::ZERO,
        };
        self.deadline.set(now + time);
    }

    fn moved(&self) {
        self.client.moved(Instant::now().into_std());
    }
}

/// A socket that sets the connection's [`Clock`].
struct Watched {
    stream: Arc<TcpStream>,
    clock: Rc<Clock>,
}

impl Watched {
    /// Tries to write, as soon as that may go.
    fn write(&self, cx: &mut Context, write: impl Fn(&TcpStream) -> io::Result<usize>) -> Poll<io::Result<usize>> {
        self.clock.enter(Phase::Answering);
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match write(&self.stream) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                written => {
                    self.clock.moved();
                    return Poll::Ready(written);
                }
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buf.initialize_unfilled()) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
                Ok(count) => {
                    buf.advance(count);
                    if count > 0 && matches!(self.clock.client.phase(), Phase::Silent | Phase::Idle) {
                        self.clock.enter(Phase::Asking);
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write(buf))
    }

    // Without these two, hyper would copy every body into one buffer.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context, bufs: &[IoSlice]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write_vectored(bufs))
    }

    /// hyper flushes the socket only when its own buffer is empty; the socket itself has nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        if self.clock.client.phase() == Phase::Answering {
            self.clock.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.clock.client.phase() == Phase::Answering || self.clock.client.has_made_way() {
            // Else the kernel would keep what it has of the answer (megabytes) for minutes, for a
            // client that does not read; and the client could take the part for the whole.
            let _ = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}
