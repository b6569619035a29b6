//! The accept loop: which clients get a place and keep it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::answer::Answers;
use super::guard::Guard;
use super::own::Own;
use super::socket::{Listener, Stream};
use super::{Purpose, Refused, ServerLimits, connection};
use crate::clients::{Budget, Client, Close, Peer, Reason, Share, Slots, Turned};

/// Without file descriptors, accept() keeps failing at once: do not spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long answers that are being written may still take when the server stops.
const STOP_GRACE: Duration = Duration::from_millis(800);
/// Bytes that each connection takes at most, besides its answer.
const CONNECTION_BYTES: usize = 20 << 10;
/// The same for TLS: a record that is read, and one that is written.
const TLS_BYTES: usize = 40 << 10;

/// What all connections of a server share. It stays on the server's thread.
pub(super) struct Door {
    pub(super) purpose: Purpose,
    pub(super) limits: ServerLimits,
    pub(super) turned: Arc<Turned>,
    pub(super) budget: Arc<Budget>,
    pub(super) guard: Option<Arc<Guard>>,
    pub(super) own: RefCell<Own>,
    slots: RefCell<Slots<Connection>>,
}

struct Connection {
    stream: Arc<Stream>,
    serving: AbortHandle,
}

impl Close for Connection {
    fn has_sent(&self) -> bool {
        self.stream.has_sent()
    }

    fn has_room(&self) -> bool {
        self.stream.has_room()
    }
}

/// The place is given back with the value.
struct Seat {
    door: Rc<Door>,
    number: u64,
    _held: Share,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.door.slots.borrow_mut().leave(self.number);
    }
}

/// The connections that are open.
struct Open {
    answers: Rc<Answers>,
    serving: JoinSet<()>,
    stop: watch::Receiver<()>,
}

impl Door {
    pub(super) fn new(
        purpose: Purpose,
        limits: ServerLimits,
        turned: Arc<Turned>,
        budget: Arc<Budget>,
        guard: Option<Arc<Guard>>,
    ) -> Rc<Door> {
        let slots = RefCell::new(Slots::new(limits.places));
        Rc::new(Door { purpose, limits, turned, budget, guard, own: RefCell::default(), slots })
    }

    /// Closes the client that has read nothing of an answer for the longest time. False: there is none.
    pub(super) fn close_stalled(&self) -> bool {
        let stalled = self.slots.borrow_mut().close_stalled(Instant::now());
        stalled.inspect(|_| self.turned.count(Reason::MadeWay)).map(|stalled| stalled.serving.abort()).is_some()
    }

    /// Serves until `stop` is closed; answers that are being written then have a moment left.
    pub(super) async fn serve(self: Rc<Door>, listener: Listener, answers: Rc<Answers>, mut stop: watch::Receiver<()>) {
        let name = self.purpose.name;
        let mut open = Open { answers, serving: JoinSet::new(), stop: stop.clone() };
        while let Some(accepted) = unless_stopped(&mut stop, listener.accept()).await {
            while open.serving.try_join_next().is_some() {}
            match accepted {
                Err(e) => {
                    log::debug!("{name}: accept a connection: {e}; trying again");
                    unless_stopped(&mut stop, sleep(ACCEPT_PAUSE)).await;
                }
                Ok((stream, there)) => self.enter(stream, there, &mut open).await,
            }
        }
        drop(listener);
        let serving = &mut open.serving;
        let _ = timeout(STOP_GRACE, async { while serving.join_next().await.is_some() {} }).await;
    }

    async fn enter(self: &Rc<Door>, stream: Stream, there: Option<SocketAddr>, open: &mut Open) {
        let name = self.purpose.name;
        match stream.stranger() {
            Ok(None) => {}
            Ok(Some((user, process))) => {
                let process = process.map_or("unknown".to_owned(), |process| process.to_string());
                log::warn!("{name}: user {user} (process {process}) was turned away");
                return open.answers.say(&stream, Refused::User);
            }
            Err(e) => return log::debug!("{name}: ask who connects: {e}"),
        }
        let peer = there.map_or(Peer::Own, |there| self.own.borrow_mut().peer(there, stream.local_addr()));
        let mut room = self.slots.borrow_mut().make_way(peer, Instant::now());
        if room.is_err() && !self.limits.patience.is_zero() {
            // All places may be taken by clients that have just connected: some of them may turn out to send nothing.
            sleep(self.limits.patience).await;
            room = self.slots.borrow_mut().make_way(peer, Instant::now());
        }
        match room {
            Ok(None) => {}
            Ok(Some((was, other))) => {
                self.turned.count(Reason::MadeWay);
                if self.limits.can_say_why(was) {
                    open.answers.say(&other.stream, Refused::MadeWay(was));
                }
                other.serving.abort();
            }
            Err(reason) => {
                log::debug!("{name}: {there:?}: turned away: {}", reason.name());
                self.turned.count(reason);
                let places = &self.limits.places;
                let most = if peer == Peer::Own { places.own } else { places.others };
                return open.answers.say(&stream, Refused::Full(most));
            }
        }
        self.seat(stream, peer, there, open);
    }

    fn seat(self: &Rc<Door>, stream: Stream, peer: Peer, there: Option<SocketAddr>, open: &mut Open) {
        let name = self.purpose.name;
        // The kernel keeps what a client leaves unread, or leaves behind when it goes, no longer than we would.
        stream.keep_for(self.limits.connection_time);
        let (client, stream) = (Arc::new(Client::new(Instant::now())), Arc::new(stream));
        let number = self.slots.borrow().next();
        let bytes = CONNECTION_BYTES + self.guard.as_ref().map_or(0, |_| TLS_BYTES);
        let seat = Seat { door: Rc::clone(self), number, _held: self.budget.hold(bytes) };
        let keep = self.keeps(peer);
        let (asking, socket) = (Arc::clone(&client), Arc::clone(&stream));
        let (answers, stop) = (Rc::clone(&open.answers), open.stop.clone());
        let serving = open.serving.spawn_local(async move {
            let limits = seat.door.limits.clone();
            if let Err(e) = connection::serve(socket, limits, keep, asking, answers, stop).await {
                log::debug!("{name}: {there:?}: {e:#}");
            }
        });
        self.slots.borrow_mut().enter(peer, client, Connection { stream, serving });
    }

    /// The connection may stay for another request.
    fn keeps(&self, peer: Peer) -> bool {
        let places = &self.limits.places;
        let (all, own) = self.slots.borrow().taken();
        !self.limits.one_request && if peer == Peer::Own { own < places.own / 2 } else { all - own < places.others / 2 }
    }
}

/// The result of `work`, or `None` if the stop comes first. (tokio's `select!` needs its macros.)
pub(super) async fn unless_stopped<T>(stop: &mut watch::Receiver<()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut stop, mut work) = (pin!(stop.changed()), pin!(work));
    poll_fn(|cx| match stop.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(cx).map(Some),
    })
    .await
}
