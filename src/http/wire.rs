//! What goes over a connection's socket: the bytes of HTTP as they are, or TLS.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use anyhow::{Result, anyhow};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::socket::Stream;

/// Bytes of an answer that are encrypted before the kernel takes them.
const AHEAD: usize = 16 << 10;

/// The way to a connection's socket.
pub(super) enum Wire {
    Plain(Arc<Stream>),
    Tls(Box<TlsStream<Socket>>),
}

/// The socket under TLS.
pub(super) struct Socket(Arc<Stream>);

impl Wire {
    /// Shakes hands with a client that has sent something.
    pub(super) async fn secure(stream: Arc<Stream>, config: Arc<ServerConfig>) -> Result<Wire> {
        let acceptor = TlsAcceptor::from(config);
        let accepted = acceptor.accept_with(Socket(stream), |tls| tls.set_buffer_limit(Some(AHEAD))).await;
        Ok(Wire::Tls(Box::new(accepted.map_err(|error| anyhow!("TLS handshake: {error}"))?)))
    }

    /// The client has shown a certificate that is valid.
    pub(super) fn is_certified(&self) -> bool {
        match self {
            Wire::Plain(_) => false,
            Wire::Tls(tls) => tls.get_ref().1.peer_certificates().is_some(),
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Wire::Plain(stream) => stream.poll_read(cx, into),
            Wire::Tls(tls) => {
                let mut buffer = ReadBuf::new(into);
                match ready!(Pin::new(tls).poll_read(cx, &mut buffer)) {
                    // Many clients just close the socket, and HTTP knows itself where a request ends.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
                    read => Poll::Ready(read.map(|()| buffer.filled().len())),
                }
            }
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Wire::Plain(stream) => stream.poll_write(cx, parts),
            Wire::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
        }
    }

    /// Waits until the kernel has all that was written.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Plain(_) => Poll::Ready(Ok(())),
            Wire::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Plain(stream) => Poll::Ready(stream.shut_down()),
            Wire::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = ready!(self.0.poll_read(cx, buf.initialize_unfilled()))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, parts)
    }

    /// The socket itself has nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shut_down())
    }
}
