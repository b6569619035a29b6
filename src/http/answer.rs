//! What a request is answered: the page, compressed if the client takes that, or an error.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::connection::Clock;
use super::{Page, Pages, Reply, TEXT, Waiting};

/// Shorter bodies are sent plain: gzip would save less than a packet.
const GZIP_FROM: usize = 1024;
/// Answers that clients have asked for and not yet read, in bytes over all connections. Without
/// this bound, 64 clients that never read would hold 64 copies of the metrics.
const HELD_MAX: usize = 64 << 20;
/// Answers up to this size are given even when `HELD_MAX` is reached: a health check must not fail
/// because another client is slow.
const HELD_FREE: usize = 64 << 10;

/// The pages, and how much of them clients have yet to read.
pub(super) struct Answers {
    name: &'static str,
    pages: Arc<dyn Pages>,
    held: Arc<AtomicUsize>,
}

impl Answers {
    pub(super) fn new(name: &'static str, pages: Arc<dyn Pages>) -> Self {
        Self { name, pages, held: Arc::default() }
    }

    /// The answer to a request of the connection that has this clock.
    pub(super) async fn answer(&self, request: &Request<Incoming>, clock: &Clock) -> Response<Full<Bytes>> {
        let name = self.name;
        let method = request.method();
        if method != Method::GET && method != Method::HEAD {
            return not_allowed("method not allowed: use GET or HEAD\n", "GET, HEAD");
        }
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        let reply = match catch_unwind(AssertUnwindSafe(|| self.pages.get(path, query))) {
            Ok(Some(Page::Now(reply))) => Some(reply),
            Ok(Some(Page::Later(_))) if method != Method::GET => {
                return not_allowed("method not allowed: use GET\n", "GET");
            }
            Ok(Some(Page::Later(make))) => {
                clock.making();
                later(make).await
            }
            Ok(None) => return plain(StatusCode::NOT_FOUND, "no such page\n"),
            Err(_) => None,
        };
        let Some(reply) = reply else {
            // The thread serves everyone; the default panic hook has already reported the panic.
            log::debug!("{name}: the page {path:?} panicked");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "this page failed; the agent's log says why\n");
        };
        let mut response = Response::builder()
            .status(reply.status)
            .header(header::CONTENT_TYPE, reply.content_type)
            .header(header::VARY, "Accept-Encoding");
        let mut body = reply.body;
        if body.len() > GZIP_FROM
            && wants_gzip(request.headers())
            && let Ok(small) = gzip(&body)
        {
            body = small;
            response = response.header(header::CONTENT_ENCODING, "gzip");
        }
        let now = self.held.load(Ordering::Relaxed);
        if now > 0 && body.len() > HELD_FREE && now + body.len() > HELD_MAX {
            log::debug!("{name}: {path:?} not answered: clients have yet to read {now} bytes");
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many answers are waiting for slow clients\n");
        }
        self.held.fetch_add(body.len(), Ordering::Relaxed);
        let body = Full::new(Bytes::from_owner(Held { body, held: self.held.clone() }));
        response.body(body).unwrap_or_else(|e| {
            log::debug!("{name}: {path:?} gave an invalid reply: {e}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "this page gave an invalid reply\n")
        })
    }
}

/// A body that counts among the held bytes until hyper has written it.
struct Held {
    body: Vec<u8>,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.body.len(), Ordering::Relaxed);
    }
}

/// Whoever waits for a page has gone when this goes.
struct Gone(Waiting);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// A page that is made on a thread of its own; none if it panicked.
async fn later(make: Box<dyn FnOnce(&Waiting) -> Reply + Send>) -> Option<Reply> {
    let waiting = Waiting::default();
    let _gone = Gone(waiting.clone());
    tokio::task::spawn_blocking(move || make(&waiting)).await.ok()
}

fn not_allowed(text: &'static str, allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}

/// Whether the client takes gzip, and not rather the plain body. What cannot be read counts as
/// refused: every client takes the plain body.
fn wants_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, 0.0);
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    for item in values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
        let mut parts = item.split(';').map(|part| part.trim().to_ascii_lowercase());
        let name = parts.next().unwrap_or_default();
        let quality = match parts.find_map(|p| p.strip_prefix("q=").map(str::parse::<f32>)) {
            None => 1.0,
            Some(value) => value.unwrap_or(0.0),
        };
        match name.as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "*" => any = Some(quality),
            "identity" => identity = quality,
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    // The thread has other clients, and text this regular gains little from more effort.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}
