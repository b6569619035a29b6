//! What a request is answered: the page, compressed if the client takes that, or an error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::task::{spawn_blocking, yield_now};

use super::accept::Door;
use super::body::Body;
use super::connection::Clock;
use super::own::Own;
use super::{Page, Pages, Reply, TEXT, Waiting};
use crate::clients::{Reason, Share};

/// Answers up to this size are given even when clients hold all that they may: a health check must not fail because another client
/// is slow. So much is compressed at once, too.
const SMALL: usize = 64 << 10;

/// The pages, and how much of them clients have yet to read.
pub(super) struct Answers {
    door: Rc<Door>,
    pages: Arc<dyn Pages>,
    held: Held,
}

/// Bodies that clients have asked for and not yet read, and how many read each: those of the same body share it.
type Held = Arc<Mutex<HashMap<usize, (usize, Share)>>>;

impl Answers {
    pub(super) fn new(door: Rc<Door>, pages: Arc<dyn Pages>) -> Self {
        Self { door, pages, held: Held::default() }
    }

    /// The answer to a request of the connection that has this clock.
    pub(super) async fn answer(&self, request: &Request<Incoming>, clock: &Clock) -> Response<Full<Bytes>> {
        let name = self.door.purpose.name;
        if self.door.purpose.own_name_only && !is_for_this_host(&self.door.own, request) {
            return plain(
                StatusCode::FORBIDDEN,
                "this server is asked by an address or the name of its host alone, such as localhost\n",
            );
        }
        let method = request.method();
        if method != Method::GET && method != Method::HEAD {
            return not_allowed("method not allowed: use GET or HEAD\n", "GET, HEAD");
        }
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        let reply = match catch_unwind(AssertUnwindSafe(|| self.pages.get(path, query))) {
            Ok(Some(Page::Now(reply))) => Some(reply),
            Ok(Some(Page::Soon(make))) => {
                clock.making();
                spawn_blocking(make).await.ok()
            }
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
        let Some(Reply { status, content_type, body }) = reply else {
            // The thread serves everyone; the default panic hook has already reported the panic.
            log::debug!("{name}: the page {path:?} panicked");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "this page failed; the agent's log says why\n");
        };
        let mut response = Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::VARY, "Accept-Encoding");
        let small = body.is_long() && wants_gzip(request.headers()) && compress(&body, clock).await;
        if small {
            response = response.header(header::CONTENT_ENCODING, "gzip");
        }
        let Some(held) = self.hold(&body).await else {
            log::debug!("{name}: {path:?} not answered: clients have yet to read too much");
            self.door.turned.count(Reason::Memory);
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many answers are waiting for slow clients\n");
        };
        let body = Full::new(Bytes::from_owner(Reading { body, small, held }));
        response.body(body).unwrap_or_else(|e| {
            log::debug!("{name}: {path:?} gave an invalid reply: {e}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "this page gave an invalid reply\n")
        })
    }

    /// Counts a body among what clients hold. If there is no room, those make way that do not read.
    async fn hold(&self, body: &Body) -> Option<Held> {
        while !self.count(body) {
            if !self.door.close_stalled() {
                return None;
            }
            // They go when it is their turn.
            yield_now().await;
        }
        Some(Arc::clone(&self.held))
    }

    fn count(&self, body: &Body) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((readers, _)) = held.get_mut(&body.identity()) {
            *readers += 1;
            return true;
        }
        let (budget, bytes) = (&self.door.budget, body.bytes());
        // The first that is asked for is always given: else one that is larger than all that clients may hold never would be.
        let always = bytes <= SMALL || held.is_empty();
        let share = if always { Some(budget.hold(bytes)) } else { budget.take(bytes) };
        share.is_some_and(|share| held.insert(body.identity(), (1, share)).is_none())
    }
}

/// A body that counts among what clients hold until hyper has written it.
struct Reading {
    body: Body,
    small: bool,
    held: Held,
}

impl AsRef<[u8]> for Reading {
    fn as_ref(&self) -> &[u8] {
        let small = self.small.then(|| self.body.compressed()).flatten();
        small.unwrap_or(self.body.as_ref())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((readers, _)) = held.get_mut(&self.body.identity()) {
            *readers -= 1;
            if *readers == 0 {
                held.remove(&self.body.identity());
            }
        }
    }
}

/// The body compressed, where that takes a while on another thread: this one has other clients.
async fn compress(body: &Body, clock: &Clock) -> bool {
    if body.bytes() <= SMALL || body.is_compressed() {
        return body.compressed().is_some();
    }
    clock.making();
    let body = body.clone();
    spawn_blocking(move || body.compressed().is_some()).await.unwrap_or(false)
}

/// Both the target and the Host, as far as there are any: a browser gives at least the one.
fn is_for_this_host(own: &RefCell<Own>, request: &Request<Incoming>) -> bool {
    let mut own = own.borrow_mut();
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let target = request.uri().authority().is_none_or(|authority| own.is_named(authority.as_str()));
    target && hosts.all(|host| host.to_str().is_ok_and(|host| own.is_named(host)))
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
    spawn_blocking(move || make(&waiting)).await.ok()
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
