//! A server for one client, whose request is known.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use super::accept::Door;
use super::answer::Answers;
use super::socket::Stream;
use super::{Pages, Purpose, ServerLimits, connection};
use crate::clients::Client;

/// Answers a client that sends these bytes and no more, as a server would.
///
/// # Errors
///
/// There are no descriptors or threads for it, `out` cannot be written to, or a stream panicked.
pub fn respond(
    purpose: Purpose,
    limits: ServerLimits,
    pages: Arc<dyn Pages>,
    bytes: &[u8],
    out: &mut dyn Write,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (_run, stop) = watch::channel(());
    let answers = {
        let door = Door::new(purpose, limits.clone(), Arc::default(), Arc::default(), None);
        Rc::new(Answers::new(door, pages, stop.clone()))
    };
    let (local, serving) = (LocalSet::new(), Rc::clone(&answers));
    local.block_on(&runtime, async move {
        let (ours, theirs) = UnixStream::pair()?;
        let (ours, theirs) = (Arc::new(Stream::Unix(ours)), Stream::Unix(theirs));
        let client = Arc::new(Client::new(Instant::now()));
        let served = spawn_local(connection::serve(ours, limits, false, client, serving, stop));
        write(&theirs, bytes).await?;
        let _ = theirs.shut_down();
        let mut piece = [0; 4096];
        loop {
            match poll_fn(|cx| theirs.poll_read(cx, &mut piece)).await {
                Ok(0) => break,
                Ok(count) => out.write_all(piece.get(..count).unwrap_or_default())?,
                // It did not read all that was sent.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error),
            }
        }
        // Why it ended is the client's own doing.
        served.await.map(drop).map_err(io::Error::other)
    })?;
    drop(local);
    if answers.streams.join() { Ok(()) } else { Err(io::Error::other("a stream panicked")) }
}

/// As far as the server takes it.
async fn write(stream: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| {
            let written = ready!(stream.poll_write(cx, &[IoSlice::new(bytes)]));
            Poll::Ready(match written {
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    Ok(bytes.len())
                }
                written => written,
            })
        });
        let written = written.await?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}
