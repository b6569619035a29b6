//! One connection, with a time limit for everything a client can be slow at.
//!
//! hyper has one clock for reading a request's header (`header_read_timeout`). It starts when the
//! connection opens and starts again as soon as an answer is written, so that it also cuts idle
//! keep-alive connections: with 5 s, every scrape of a Prometheus would need a new connection.
//! It has no clock for writing. Both are replaced here by one deadline for each connection, which
//! follows what happens on the socket (see [`Phase`]). Others see that too: a client that makes no use of its place makes way.
//! A TLS handshake has to fit into the time for the first request's header.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::rustls::ServerConfig;

use super::accept::unless_stopped;
use super::answer::Answers;
use super::socket::Stream;
use super::target::Targets;
use super::wire::Wire;
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
    let rules = answers.rules();
    let tls = rules.as_ref().and_then(|rules| rules.tls.clone());
    let greeted = timeout_at(clock.deadline.get(), greet(&clock, tls.clone(), &answers));
    let Some(greeted) = unless_stopped(&mut stop, greeted).await else { return Ok(()) };
    let wire = match greeted.unwrap_or_else(|_| Err(anyhow!("closed: no TLS handshake in time"))) {
        Ok(Some(wire)) => wire,
        Ok(None) => return Ok(()),
        Err(error) => {
            // One that has sent nothing has not tried.
            if clock.client.phase() != Phase::Silent {
                answers.count_handshake();
            }
            return Err(error);
        }
    };
    let secured = Rc::new(Secured { tls, certified: wire.is_certified() });
    let io = TokioIo::new(Watched::new(Rc::clone(&clock), wire));
    let service = service_fn(|request| {
        let (answers, clock, secured) = (Rc::clone(&answers), Rc::clone(&clock), Rc::clone(&secured));
        async move { Ok::<_, Infallible>(answers.answer(&request, &clock, &secured).await) }
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

/// What a connection showed when it was opened.
pub(super) struct Secured {
    /// How TLS is spoken, if it is.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// The client has shown a certificate that is valid.
    pub(super) certified: bool,
}

/// Shakes hands, if TLS is spoken. Nothing comes of it if the client does not speak it, or leaves without a word.
async fn greet(clock: &Clock, tls: Option<Arc<ServerConfig>>, answers: &Answers) -> anyhow::Result<Option<Wire>> {
    let stream = Arc::clone(&clock.stream);
    let Some(config) = tls else { return Ok(Some(Wire::Plain(stream))) };
    let first = poll_fn(|cx| stream.poll_peek(cx)).await.context("wait for a TLS handshake")?;
    clock.enter(Phase::Asking);
    match first {
        None => Ok(None),
        Some(first) if first.is_ascii_alphabetic() => {
            answers.say(&stream, Refused::Plain);
            discard(&stream, clock).await;
            bail!("it asked without TLS")
        }
        Some(_) => Wire::secure(stream, config).await.map(Some),
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

/// A connection that sets its [`Clock`].
struct Watched {
    clock: Rc<Clock>,
    wire: Wire,
    /// As long as there is something to be encoded.
    targets: Option<Targets>,
}

impl Watched {
    fn new(clock: Rc<Clock>, wire: Wire) -> Watched {
        let targets = clock.limits.one_request.then(Targets::default);
        Watched { clock, wire, targets }
    }

    fn read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(first) = self.targets.as_mut().filter(|first| !first.is_over()) else {
            self.targets = None;
            return self.wire.poll_read(cx, into);
        };
        let mut pending = false;
        let count = first.read(into, |piece| match self.wire.poll_read(cx, piece) {
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
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.clock.enter(Phase::Answering);
        let written = ready!(self.wire.poll_write(cx, parts));
        self.clock.moved();
        Poll::Ready(written)
    }

    /// hyper flushes only when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire.poll_flush(cx))?;
        if self.clock.client.phase() == Phase::Answering {
            self.clock.enter(if self.clock.streaming.get() { Phase::Streaming } else { Phase::Idle });
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_shutdown(cx)
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
