//! One connection, with a time limit for everything a client can be slow at.
//!
//! hyper has one clock for reading a request's header (`header_read_timeout`). It starts when the
//! connection opens and starts again as soon as an answer is written, so that it also cuts idle
//! keep-alive connections: with 5 s, every scrape of a Prometheus would need a new connection.
//! It has no clock for writing. Both are replaced here by one deadline for each connection, which
//! follows what happens on the socket (see [`Phase`]). Others see that too: a client that makes no use of its place makes way.

use std::cell::{Cell, RefCell};
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
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::Answers;
use super::socket::Stream;
use super::target::Targets;
use super::{Refused, ServerLimits};
use crate::clients::{Client, Phase};

/// Prometheus sends six headers; hyper answers 431 to a request with more than this.
const HEADERS_MAX: usize = 64;
/// hyper panics when its buffer is set smaller than this.
const HYPER_BUFFER_MIN: usize = 8192;
/// A client that sends more than was read is listened to this long after its answer, and for this many bytes.
const DISCARD_TIME: Duration = Duration::from_millis(500);
const DISCARD_BYTES: usize = 1 << 20;

/// Serves one connection until it ends, is late, or the server stops; with `keep`, more than one
/// request.
pub(super) async fn serve(
    stream: Arc<Stream>,
    limits: ServerLimits,
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
        // Otherwise that a client ends its side would mean that it has gone.
        .half_close(limits.one_request)
        .keep_alive(keep);
    let clock = Rc::new(Clock::new(limits, client, Arc::clone(&stream)));
    let io = TokioIo::new(Watched::new(Rc::clone(&clock)));
    let service = service_fn(|request| {
        let (answers, clock) = (Rc::clone(&answers), Rc::clone(&clock));
        async move { Ok::<_, Infallible>(answers.answer(&request, &clock).await) }
    });
    let mut served = http.serve_connection(io, service);
    let mut alarm = pin!(sleep_until(clock.deadline.get()));
    let mut stop = pin!(stop.changed());
    let mut stopping = false;
    let end = poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut served).graceful_shutdown();
        }
        if let Poll::Ready(end) = Pin::new(&mut served).poll(cx) {
            return Poll::Ready(Ok(end));
        }
        if alarm.deadline() != clock.deadline.get() {
            alarm.as_mut().reset(clock.deadline.get());
        }
        alarm.as_mut().poll(cx).map(|()| Err(clock.client.phase()))
    })
    .await;
    match end {
        Ok(end) => {
            if end.is_err() || clock.unread.get() || stream.discard(DISCARD_BYTES) > 0 {
                discard(&stream, &clock).await;
            }
            end.context("serve a connection")
        }
        Err(phase) => {
            if clock.limits.can_say_why(phase) {
                answers.say(&stream, Refused::Late(phase, clock.limits.time_for(phase)));
            }
            Err(anyhow!("closed: took too long in phase {phase:?}"))
        }
    }
}

/// Reads what a client still sends after its answer, and leaves it: to close a socket with something unread would destroy an answer
/// that is on its way.
async fn discard(stream: &Stream, clock: &Clock) {
    // hyper may have read some of it, so that it looks like the next request.
    if !matches!(clock.client.phase(), Phase::Idle | Phase::Asking) {
        return;
    }
    let _ = stream.shut_down();
    let mut left = DISCARD_BYTES;
    let rest = poll_fn(|cx| {
        let mut piece = [0; 4096];
        while left > 0
            && let Ok(count @ 1..) = ready!(stream.poll_read(cx, &mut piece))
        {
            left = left.saturating_sub(count);
        }
        Poll::Ready(())
    });
    let _ = timeout(DISCARD_TIME, rest).await;
}

/// One deadline for each connection: set when the phase changes, and never put off by progress
/// within a phase, so that a byte now and then does not keep a connection. A stream is the exception: it takes as long as it takes,
/// while the client reads.
pub(super) struct Clock {
    limits: ServerLimits,
    client: Arc<Client>,
    stream: Arc<Stream>,
    deadline: Cell<Instant>,
    /// The answer is a stream, and not at its end.
    streaming: Cell<bool>,
    /// A part of a request was left unread.
    unread: Cell<bool>,
}

impl Clock {
    fn new(limits: ServerLimits, client: Arc<Client>, stream: Arc<Stream>) -> Self {
        let deadline = Cell::new(Instant::now() + limits.header_time);
        Self { limits, client, stream, deadline, streaming: Cell::new(false), unread: Cell::new(false) }
    }

    /// A page is in the making.
    pub(super) fn making(&self) {
        self.enter(Phase::Making);
    }

    /// The request has a body, which nobody reads.
    pub(super) fn leave_unread(&self) {
        self.unread.set(true);
    }

    /// The answer is a stream from now on, or no more.
    pub(super) fn stream(&self, streaming: bool) {
        if streaming {
            // Otherwise a client that reads slowly could seem to read nothing: the kernel takes more only when a good part of what it
            // has was read.
            self.stream.keep_little();
        }
        self.streaming.set(streaming);
    }

    fn enter(&self, phase: Phase) {
        let before = self.client.phase();
        let now = Instant::now();
        if !self.client.enter(phase, now.into_std()) {
            return;
        }
        // The time for the request's header is that since it was opened.
        if before == Phase::Silent && phase == Phase::Asking {
            return;
        }
        let time = match phase {
            Phase::Answering if self.streaming.get() => self.limits.stall_time,
            _ => self.limits.time_for(phase),
        };
        self.deadline.set(now + time);
    }

    fn moved(&self) {
        let now = Instant::now();
        self.client.moved(now.into_std());
        if self.streaming.get() {
            self.deadline.set(now + self.limits.stall_time);
        }
    }
}

/// A socket that sets the connection's [`Clock`].
struct Watched {
    clock: Rc<Clock>,
    /// As long as there is something to be encoded.
    targets: RefCell<Option<Targets>>,
}

impl Watched {
    fn new(clock: Rc<Clock>) -> Watched {
        let targets = clock.limits.one_request.then(Targets::default);
        Watched { clock, targets: RefCell::new(targets) }
    }

    fn read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut targets = self.targets.borrow_mut();
        let Some(first) = targets.as_mut().filter(|first| !first.is_over()) else {
            *targets = None;
            return self.clock.stream.poll_read(cx, into);
        };
        let mut pending = false;
        let count = first.read(into, |piece| match self.clock.stream.poll_read(cx, piece) {
            Poll::Ready(count) => count,
            Poll::Pending => {
                pending = true;
                Err(io::ErrorKind::WouldBlock.into())
            }
        });
        if pending { Poll::Pending } else { Poll::Ready(count) }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = ready!(self.read(cx, buf.initialize_unfilled()))?;
        buf.advance(count);
        if count > 0 && matches!(self.clock.client.phase(), Phase::Silent | Phase::Idle) {
            self.clock.enter(Phase::Asking);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    // Without these two, hyper would copy every body into one buffer.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.clock.enter(Phase::Answering);
        let written = ready!(self.clock.stream.poll_write(cx, parts));
        self.clock.moved();
        Poll::Ready(written)
    }

    /// hyper flushes the socket only when its own buffer is empty; the socket itself has nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.clock.client.phase() == Phase::Answering {
            self.clock.enter(if self.clock.streaming.get() { Phase::Streaming } else { Phase::Idle });
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.clock.stream.shut_down())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let client = &self.clock.client;
        if matches!(client.phase(), Phase::Answering | Phase::Streaming) || client.has_made_way() {
            // Otherwise the kernel would keep what it has of the answer (megabytes) for minutes, for a
            // client that does not read; and the client could take the part for the whole.
            self.clock.stream.keep_nothing();
        }
    }
}
