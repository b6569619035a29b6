//! Answers that are written while they are read: a thread makes each, and waits while its client does not read.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::thread::{Builder, JoinHandle};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot, watch};

use super::connection::Clock;
use super::page::{MakeStream, NoStream};
use super::{Refused, Reply};
use crate::clients::Share;

/// Bytes written together, unless they are flushed earlier.
const CHUNK: usize = 32 << 10;
/// Chunks that are made before the one before is with the kernel.
const AHEAD: usize = 1;

/// What comes of a page that is made on a thread of its own.
pub(super) enum Made {
    Whole(Reply),
    Stream { content_type: &'static str, pieces: mpsc::Receiver<Piece> },
}

/// A part of a stream.
pub(super) enum Piece {
    Chunk(Bytes),
    End,
}

/// The beginning of an answer that may become a stream: until then it may still be refused.
pub struct Opening {
    made: Option<oneshot::Sender<Made>>,
    stop: watch::Receiver<()>,
}

impl Opening {
    /// The status is 200, and a body of this type follows.
    ///
    /// # Errors
    ///
    /// Nobody waits for the answer any more, or it was begun before.
    pub fn begin(&mut self, content_type: &'static str) -> io::Result<Chunks> {
        let gone = || io::Error::from(ErrorKind::BrokenPipe);
        let made = self.made.take().ok_or_else(gone)?;
        let (send, pieces) = mpsc::channel(AHEAD);
        made.send(Made::Stream { content_type, pieces }).map_err(|_| gone())?;
        Ok(Chunks { send, chunk: Vec::with_capacity(CHUNK), stop: self.stop.clone() })
    }
}

/// The body of a stream. Without a call of [`Chunks::end`] the client sees that a part of it is missing.
pub struct Chunks {
    send: mpsc::Sender<Piece>,
    chunk: Vec<u8>,
    stop: watch::Receiver<()>,
}

impl Chunks {
    /// Nobody reads any more, or the server stops.
    pub fn is_over(&self) -> bool {
        self.send.is_closed() || self.stop.has_changed().is_err()
    }

    /// The body is complete.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Piece::End)
    }

    fn send(&self, piece: Piece) -> io::Result<()> {
        self.send.blocking_send(piece).map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::copy_from_slice(&self.chunk);
        self.chunk.clear();
        self.send(Piece::Chunk(chunk))
    }
}

/// The threads that make streams.
pub(super) struct Streams {
    name: &'static str,
    most: usize,
    stop: watch::Receiver<()>,
    /// Those of clients that have gone take a moment to end.
    threads: RefCell<Vec<JoinHandle<()>>>,
}

impl Streams {
    /// At most so many at a time, until `stop` is closed.
    pub(super) fn new(name: &'static str, most: usize, stop: watch::Receiver<()>) -> Streams {
        Streams { name, most, stop, threads: RefCell::default() }
    }

    /// What comes of `make`, which runs on a thread of its own.
    pub(super) async fn make(&self, make: MakeStream) -> Result<Made, Refused> {
        let (made, coming) = oneshot::channel();
        self.start(make, Opening { made: Some(made), stop: self.stop.clone() })?;
        coming.await.map_err(|_| Refused::Failed)
    }

    fn start(&self, make: MakeStream, mut opening: Opening) -> Result<(), Refused> {
        let mut threads = self.threads.borrow_mut();
        for ended in threads.extract_if(.., |thread| thread.is_finished()) {
            // The default hook has reported the panic, if that is how it ended.
            let _ = ended.join();
        }
        if threads.len() >= self.most {
            return Err(Refused::Full(self.most));
        }
        let name = self.name;
        let work = move || match make(&mut opening) {
            Ok(()) => {}
            Err(NoStream::Instead(reply)) => {
                // Nobody waits for it if this fails.
                let _ = opening.made.take().map(|made| made.send(Made::Whole(reply)));
            }
            Err(NoStream::Broken(error)) => log::debug!("{name}: write a stream: {error}"),
        };
        let thread = Builder::new().name(format!("nm-{name}")).spawn(work).map_err(|error| {
            log::error!("{name}: start the thread of a stream: {error}");
            Refused::Failed
        })?;
        threads.push(thread);
        Ok(())
    }

    /// Joins the threads, to be called when the connections have ended. True: none of them panicked.
    pub(super) fn join(&self) -> bool {
        let threads = self.threads.take();
        threads.into_iter().map(JoinHandle::join).fold(true, |all, ended| all & ended.is_ok())
    }
}

/// The body of an answer, whole or a stream, and what was held to make it.
pub(super) struct Payload {
    body: Form,
    _held: Share,
}

enum Form {
    Whole(Full<Bytes>),
    Stream { pieces: mpsc::Receiver<Piece>, clock: Rc<Clock> },
}

impl Payload {
    pub(super) fn whole(bytes: Bytes, held: Share) -> Payload {
        Payload { body: Form::Whole(Full::new(bytes)), _held: held }
    }

    pub(super) fn stream(pieces: mpsc::Receiver<Piece>, clock: &Rc<Clock>, held: Share) -> Payload {
        clock.stream(true);
        Payload { body: Form::Stream { pieces, clock: Rc::clone(clock) }, _held: held }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.body {
            Form::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Form::Stream { pieces, clock } => Poll::Ready(match ready!(pieces.poll_recv(cx)) {
                Some(Piece::Chunk(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Piece::End) => {
                    clock.stream(false);
                    None
                }
                None => Some(Err(io::Error::new(ErrorKind::UnexpectedEof, "the stream was not completed"))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.body, Form::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Form::Whole(body) => body.size_hint(),
            Form::Stream { .. } => SizeHint::default(),
        }
    }
}
