//! What a server is asked, and what it answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::body::Body;
use super::refused::Refused;
use super::stream::Opening;

/// The content type of a page for people.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The content type of the Prometheus text format.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is whole.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The content type, such as [`TEXT`] or [`METRICS`].
    pub content_type: &'static str,
    /// The body, not compressed.
    pub body: Body,
}

/// Begins a stream and writes it.
pub(super) type MakeStream = Box<dyn FnOnce(&mut Opening) -> Result<(), NoStream> + Send>;

/// A page, made or yet to be made.
pub enum Page {
    /// The page is there.
    Now(Reply),
    /// It may have to wait or take some time, so it is made on another thread.
    Soon(Box<dyn FnOnce() -> Reply + Send>),
    /// It takes a while, so it is made on another thread, and not for HEAD.
    Later(Box<dyn FnOnce(&Waiting) -> Reply + Send>),
    /// It is written while the client reads it, on a thread of its own, and not for HEAD.
    Stream(MakeStream),
}

impl From<Reply> for Page {
    fn from(reply: Reply) -> Page {
        Page::Now(reply)
    }
}

/// Why a stream was not begun, or not completed.
pub enum NoStream {
    /// It was not begun; this is the answer instead.
    Instead(Reply),
    /// It could not be written.
    Broken(io::Error),
}

impl From<io::Error> for NoStream {
    fn from(error: io::Error) -> NoStream {
        NoStream::Broken(error)
    }
}

/// The client that waits for a page that takes a while.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// The client has gone, or the server stops.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ends a [`Waiting`] when it is dropped.
pub(super) struct Gone(pub(super) Waiting);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// A request; its body is not read.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, in upper case if it is a usual one.
    pub method: &'a str,
    /// The path, as it was encoded.
    pub path: &'a str,
    /// What comes after "?", for [`parameters`](super::parameters).
    pub query: &'a str,
    /// A body follows.
    pub has_body: bool,
}

/// The pages of a server. The methods are called on its own thread, one at a time: if one waits, all clients wait.
pub trait Pages: Send + Sync + 'static {
    /// The page for a path and a query (what comes after "?"), or `None` for a 404.
    fn get(&self, path: &str, query: &str) -> Option<Page>;

    /// The page for any request. By default only GET and HEAD are answered.
    ///
    /// # Errors
    ///
    /// There is no such page, or not for this method.
    fn answer(&self, request: &Request<'_>) -> Result<Page, Refused> {
        match request.method {
            "GET" | "HEAD" => self.get(request.path, request.query).ok_or(Refused::NotFound),
            _ => Err(Refused::Method("GET, HEAD")),
        }
    }

    /// The page is for everybody, however the server is protected.
    fn is_open(&self, _path: &str) -> bool {
        false
    }

    /// The answer to a client that gets no page.
    fn refuse(&self, refused: Refused) -> Reply {
        refused.reply()
    }
}
