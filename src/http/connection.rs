//! One connection, with a time limit for everything a client can be slow at.
//!
//! hyper has one clock for reading a request's header (`header_read_timeout`). It starts when the
//! connection opens and starts again as soon as an answer is written, so that it also cuts idle
//! keep-alive connections: with 5 s, every scrape of a Prometheus would need a new connection.
//! It has no clock for writing. Both are replaced here by one deadline for each connection, which
//! follows what happens on the socket (see [`Phase`]).

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Limits;
use super::answer::Answers;

/// Prometheus sends six headers; hyper answers 431 to a request with more than this.
const HEADERS_MAX: usize = 64;
/// hyper panics when its buffer is set smaller than this.
const HYPER_BUFFER_MIN: usize = 8192;

/// Serves one connection until it ends, is late, or the server stops; with `keep`, more than one
/// request.
pub(super) async fn serve(
    stream: TcpStream,
    limits: Limits,
    keep: bool,
    answers: Arc<Answers>,
    mut stop: watch::Receiver<()>,
) -> anyhow::Result<()> {
    let mut http = http1::Builder::new();
    http.max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(HYPER_BUFFER_MIN))
        .max_headers(HEADERS_MAX)
        .header_read_timeout(None)
        .keep_alive(keep);
    let clock = Rc::new(Clock::new(limits));
    let io = TokioIo::new(Watched { stream, clock: clock.clone() });
    let service = service_fn(|request| {
        let (answers, clock) = (Arc::clone(&answers), Rc::clone(&clock));
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
        let late = || anyhow!("closed: took too long in phase {:?}", clock.phase.get());
        alarm.as_mut().poll(cx).map(|()| Err(late()))
    })
    .await
}

/// What a connection is doing, as seen from its socket.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Opened, or the first byte of a further request was read.
    Header,
    /// The page that was asked for takes a while.
    Making,
    /// The first byte of an answer was written.
    Answer,
    /// All of the answer is with the kernel.
    Idle,
}

/// One deadline for each connection: set when the phase changes, and never put off by progress
/// within a phase, so that a byte now and then does not keep a connection.
pub(super) struct Clock {
    limits: Limits,
    phase: Cell<Phase>,
    deadline: Cell<Instant>,
}

impl Clock {
    fn new(limits: Limits) -> Self {
        let deadline = Cell::new(Instant::now() + limits.header_time);
        Self { limits, phase: Cell::new(Phase::Header), deadline }
    }

    /// A page is in the making.
    pub(super) fn making(&self) {
        self.enter(Phase::Making, self.limits.making_time);
    }

    fn enter(&self, phase: Phase, time: Duration) {
        if self.phase.replace(phase) != phase {
            self.deadline.set(Instant::now() + time);
        }
    }
}

/// A socket that sets the connection's [`Clock`].
struct Watched {
    stream: TcpStream,
    clock: Rc<Clock>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before && self.clock.phase.get() == Phase::Idle {
            self.clock.enter(Phase::Header, self.clock.limits.header_time);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.clock.enter(Phase::Answer, self.clock.limits.connection_time);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    // Without these two, hyper would copy every body into one buffer.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context, bufs: &[IoSlice]) -> Poll<io::Result<usize>> {
        self.clock.enter(Phase::Answer, self.clock.limits.connection_time);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    /// hyper flushes the socket only when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.clock.phase.get() == Phase::Answer {
            self.clock.enter(Phase::Idle, self.clock.limits.idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.clock.phase.get() == Phase::Answer {
            // Else the kernel would keep what it has of the answer (megabytes) for minutes, for a
            // client that does not read; and the client could take the part for the whole.
            let _ = self.stream.set_zero_linger();
        }
    }
}
