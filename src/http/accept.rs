//! Who gets a place, and keeps it: the accept loop.

use std::cell::RefCell;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::answer::Answers;
use super::own::Own;
use super::{Limits, Pages, Purpose, connection};
use crate::clients::{Budget, Client, Close, Peer, Reason, Share, Slots, Turned};

/// Without file descriptors, accept() fails at once and for ever: do not spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long answers that are being written may take when the server stops.
const STOP_GRACE: Duration = Duration::from_millis(800);
/// What each connection takes at most, besides its answer.
const CONNECTION_BYTES: usize = 20 << 10;
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What all connections of a server share; on its thread alone.
pub(super) struct Door {
    pub(super) purpose: Purpose,
    pub(super) limits: Limits,
    pub(super) turned: Arc<Turned>,
    pub(super) budget: Arc<Budget>,
    pub(super) own: RefCell<Own>,
    slots: RefCell<Slots<Connection>>,
    pages: Arc<dyn Pages>,
}

struct Connection {
    stream: Arc<TcpStream>,
    serving: AbortHandle,
}

impl Close for Connection {
    fn has_sent(&self) -> bool {
        SockRef::from(&*self.stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|bytes| bytes > 0)
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

impl Door {
    pub(super) fn new(
        purpose: Purpose,
        limits: Limits,
        turned: Arc<Turned>,
        budget: Arc<Budget>,
        pages: Arc<dyn Pages>,
    ) -> Rc<Door> {
        let slots = RefCell::new(Slots::new(limits.places));
        Rc::new(Door { purpose, limits, turned, budget, own: RefCell::default(), slots, pages })
    }

    /// Whoever has longest read nothing of an answer is closed. False: there is nobody.
    pub(super) fn close_stalled(&self) -> bool {
        let stalled = self.slots.borrow_mut().close_stalled(Instant::now());
        stalled.inspect(|_| self.turned.count(Reason::MadeWay)).map(|stalled| stalled.serving.abort()).is_some()
    }

    pub(super) async fn serve(self: Rc<Door>, listener: TcpListener, mut stopped: watch::Receiver<()>) {
        let name = self.purpose.name;
        let answers = Rc::new(Answers::new(Rc::clone(&self), Arc::clone(&self.pages)));
        let mut open = JoinSet::new();
        let stop = stopped.clone();
        while let Some(accepted) = unless_stopped(&mut stopped, listener.accept()).await {
            while open.try_join_next().is_some() {}
            match accepted {
                Err(e) => {
                    log::debug!("{name}: accept a connection: {e}; trying again");
                    unless_stopped(&mut stopped, sleep(ACCEPT_PAUSE)).await;
                }
                Ok((stream, there)) => self.enter(stream, there, &answers, &stop, &mut open),
            }
        }
        drop(listener);
        let _ = timeout(STOP_GRACE, async { while open.join_next().await.is_some() {} }).await;
    }

    fn enter(
        self: &Rc<Door>,
        stream: TcpStream,
        there: SocketAddr,
        answers: &Rc<Answers>,
        stop: &watch::Receiver<()>,
        open: &mut JoinSet<()>,
    ) {
        let name = self.purpose.name;
        let peer = self.own.borrow_mut().peer(there, stream.local_addr().ok());
        let now = Instant::now();
        let room = self.slots.borrow_mut().make_way(peer, now);
        match room {
            Ok(None) => {}
            Ok(Some((_, other))) => {
                self.turned.count(Reason::MadeWay);
                other.serving.abort();
            }
            Err(reason) => {
                log::debug!("{name}: {there}: turned away: {}", reason.name());
                self.turned.count(reason);
                // As far as it goes: waiting for this client would give it a place after all.
                let _ = stream.try_write(BUSY);
                return;
            }
        }
        // What a client leaves unread, or has left without a word, the kernel keeps no longer than we would.
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(self.limits.connection_time));
        let (client, stream) = (Arc::new(Client::new(now)), Arc::new(stream));
        let number = self.slots.borrow().next();
        let seat = Seat { door: Rc::clone(self), number, _held: self.budget.hold(CONNECTION_BYTES) };
        let keep = self.keeps(peer);
        let (asking, socket) = (Arc::clone(&client), Arc::clone(&stream));
        let (answers, stop) = (Rc::clone(answers), stop.clone());
        let serving = open.spawn_local(async move {
            let limits = seat.door.limits.clone();
            if let Err(e) = connection::serve(socket, limits, keep, asking, answers, stop).await {
                log::debug!("{name}: {there}: {e:#}");
            }
        });
        self.slots.borrow_mut().enter(peer, client, Connection { stream, serving });
    }

    /// The connection may stay for another request.
    fn keeps(&self, peer: Peer) -> bool {
        let places = &self.limits.places;
        let (all, own) = self.slots.borrow().taken();
        if peer == Peer::Own { own < places.own / 2 } else { all - own < places.others / 2 }
    }
}

/// The result of `work`, or `None` if the stop comes first. (tokio's `select!` needs its macros.)
async fn unless_stopped<T>(stop: &mut watch::Receiver<()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut stop, mut work) = (pin!(stop.changed()), pin!(work));
    poll_fn(|cx| match stop.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(cx).map(Some),
    })
    .await
}
