//! The answer to a request: a whole page, compressed if the client accepts that, a stream, or an error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::watch;
use tokio::task::{spawn_blocking, yield_now};

use super::accept::Door;
use super::body::Body;
use super::connection::{Clock, Secured};
use super::guard::Rules;
use super::own::Own;
use super::page::Gone;
use super::refused::raw;
use super::socket::Stream;
use super::stream::{Made, Payload, Streams};
use super::{Page, Pages, Refused, Reply, Request, Waiting};
use crate::clients::{Reason, Share};

/// Answers up to this size, in bytes, are given even when clients hold all that they may: a health check must not fail because another
/// client is slow. They are also compressed on the server's own thread.
const SMALL: usize = 64 << 10;
/// Bytes of a request that are read and ignored before its connection is closed at once.
const UNREAD: usize = 64 << 10;

/// What credentials a client needs (RFC 7617).
const CHALLENGE: &str = "Basic realm=\"netmon\", charset=\"UTF-8\"";

type HttpRequest = hyper::Request<Incoming>;

/// The pages, and the bodies that clients have yet to read.
pub(super) struct Answers {
    door: Rc<Door>,
    pages: Arc<dyn Pages>,
    held: Held,
    pub(super) streams: Streams,
}

/// Bodies that clients have yet to read, by identity, with the number of clients that read each. Clients of the same body share it.
type Held = Arc<Mutex<HashMap<usize, (usize, Share)>>>;

impl Answers {
    pub(super) fn new(door: Rc<Door>, pages: Arc<dyn Pages>, stop: watch::Receiver<()>) -> Self {
        let streams = Streams::new(door.purpose.name, door.limits.streams, stop);
        Self { door, pages, held: Held::default(), streams }
    }

    /// The protection in force, if there is any.
    pub(super) fn rules(&self) -> Option<Arc<Rules>> {
        self.door.guard.as_ref().map(|guard| guard.rules())
    }

    /// A client did not complete its TLS handshake.
    pub(super) fn count_handshake(&self) {
        self.door.turned.count(Reason::Handshake);
    }

    /// Sends a client the reason why it gets no page, as far as the kernel takes it at once: waiting would give it a place after all.
    /// One that speaks TLS would not understand it.
    pub(super) fn say(&self, stream: &Stream, refused: Refused) {
        if refused == Refused::Plain || self.rules().is_none_or(|rules| rules.tls.is_none()) {
            let _ = stream.send_now(&raw(&self.pages.refuse(refused)));
        }
        let _ = stream.shut_down();
        stream.discard(UNREAD);
    }

    /// The answer to a request of the connection that has this clock.
    pub(super) async fn answer(
        &self,
        request: &HttpRequest,
        clock: &Rc<Clock>,
        secured: &Secured,
    ) -> Response<Payload> {
        let share = self.door.budget.hold(self.door.limits.answer_bytes);
        if !request.body().is_end_stream() {
            clock.leave_unread();
        }
        let rules = self.rules();
        let made = match self.admit(rules.as_deref(), request, clock, secured).await {
            Ok(()) => self.make(request, clock).await,
            Err(refused) => Err(refused),
        };
        let mut response = match made {
            Ok(Made::Whole(reply)) => self.whole(reply, request, clock, share).await,
            Ok(Made::Stream { content_type, pieces }) => {
                respond(StatusCode::OK, content_type, Payload::stream(pieces, clock, share))
            }
            Err(refused) => self.refuse(refused, share),
        };
        if rules.is_some_and(|rules| !rules.is_of(secured)) {
            // The next connection gets the certificate that is in force now, and shows one that is still valid.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn admit(
        &self,
        rules: Option<&Rules>,
        request: &HttpRequest,
        clock: &Clock,
        secured: &Secured,
    ) -> Result<(), Refused> {
        let (Some(guard), Some(rules)) = (&self.door.guard, rules) else { return Ok(()) };
        if self.pages.is_open(request.uri().path()) {
            return Ok(());
        }
        let refused = if rules.tls.is_some() && secured.tls.is_none() {
            Refused::Plain
        } else if rules.certificate_required && !secured.certified {
            Refused::Certificate
        } else if !guard.admits(rules, request.headers(), clock).await {
            Refused::Credentials
        } else {
            return Ok(());
        };
        self.door.turned.count(Reason::Credentials);
        Err(refused)
    }

    async fn make(&self, request: &HttpRequest, clock: &Clock) -> Result<Made, Refused> {
        if self.door.purpose.own_name_only && !is_for_this_host(&self.door.own, request) {
            return Err(Refused::Host);
        }
        let (name, path) = (self.door.purpose.name, request.uri().path());
        let asked = Request {
            method: request.method().as_str(),
            path,
            query: request.uri().query().unwrap_or_default(),
            has_body: !request.body().is_end_stream(),
        };
        // The thread serves everyone; the default panic hook reports the panic.
        let failed = |_: &_| log::debug!("{name}: the page {path:?} panicked");
        let page = catch_unwind(AssertUnwindSafe(|| self.pages.answer(&asked)));
        let page = page.inspect_err(failed).unwrap_or(Err(Refused::Failed))?;
        let made = match page {
            Page::Now(reply) => Ok(reply),
            Page::Later(_) | Page::Stream(_) if asked.method == "HEAD" => return Err(Refused::Method("GET")),
            Page::Soon(make) => {
                clock.making();
                spawn_blocking(make).await
            }
            Page::Later(make) => {
                clock.making();
                let waiting = Waiting::default();
                let _gone = Gone(waiting.clone());
                spawn_blocking(move || make(&waiting)).await
            }
            Page::Stream(make) => {
                clock.making();
                let made = self.streams.make(make).await;
                if matches!(made, Err(Refused::Full(_))) {
                    self.door.turned.count(Reason::Full);
                }
                return made;
            }
        };
        made.map(Made::Whole).map_err(|_| {
            log::debug!("{name}: the page {path:?} panicked");
            Refused::Failed
        })
    }

    async fn whole(&self, reply: Reply, request: &HttpRequest, clock: &Clock, share: Share) -> Response<Payload> {
        let (name, path) = (self.door.purpose.name, request.uri().path());
        let Reply { status, content_type, body } = reply;
        let Ok(status) = StatusCode::from_u16(status) else {
            log::debug!("{name}: {path:?} gave an invalid reply: status {status}");
            return self.refuse(Refused::Failed, share);
        };
        let small = body.is_long() && wants_gzip(request.headers()) && compress(&body, clock).await;
        let Some(held) = self.hold(&body).await else {
            log::debug!("{name}: {path:?} not answered: clients have yet to read too much");
            self.door.turned.count(Reason::Memory);
            return self.refuse(Refused::Memory, share);
        };
        let mut response =
            respond(status, content_type, Payload::whole(Bytes::from_owner(Reading { body, small, held }), share));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if small {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    fn refuse(&self, refused: Refused, share: Share) -> Response<Payload> {
        let Reply { status, content_type, body } = self.pages.refuse(refused);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Payload::whole(Bytes::copy_from_slice(body.as_ref()), share);
        let mut response = respond(status, content_type, body);
        match refused {
            Refused::Method(allowed) => {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Refused::Credentials => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
            }
            _ => {}
        }
        response
    }

    /// Counts a body among those that clients hold. If there is no room, clients that do not read make way.
    async fn hold(&self, body: &Body) -> Option<Held> {
        while !self.count(body) {
            if !self.door.close_stalled() {
                return None;
            }
            // Its task ends when it is next scheduled.
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
        // The first one is always given: otherwise a body that is larger than the budget never would be.
        let always = bytes <= SMALL || held.is_empty();
        let share = if always { Some(budget.hold(bytes)) } else { budget.take(bytes) };
        share.is_some_and(|share| held.insert(body.identity(), (1, share)).is_none())
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Payload) -> Response<Payload> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
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

/// Compresses the body, on another thread if that takes a while: this one serves other clients.
async fn compress(body: &Body, clock: &Clock) -> bool {
    if body.bytes() <= SMALL || body.is_compressed() {
        return body.compressed().is_some();
    }
    clock.making();
    let body = body.clone();
    spawn_blocking(move || body.compressed().is_some()).await.unwrap_or(false)
}

/// Checks both the target and the header Host, if they are present: a browser sends at least one of them.
fn is_for_this_host(own: &RefCell<Own>, request: &HttpRequest) -> bool {
    let mut own = own.borrow_mut();
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let target = request.uri().authority().is_none_or(|authority| own.is_named(authority.as_str()));
    target && hosts.all(|host| host.to_str().is_ok_and(|host| own.is_named(host)))
}

/// Whether the client accepts gzip and does not prefer the plain body. A value that cannot be parsed
/// counts as a refusal: every client accepts the plain body.
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
