//! Places for connections: how many there are, how many one address may have, and who makes way when all are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Peer, Reason};

/// A client that has connected this recently may be about to send its request.
pub const GREETING: Duration = Duration::from_millis(2);
/// A client that has read nothing of its answer for this long loses its place if another one needs it.
const STALLED: Duration = Duration::from_millis(250);
/// So does one whose answer has taken this long, even if it goes on.
const LONG: Duration = Duration::from_secs(5);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// It is open, and nothing has come.
    Silent,
    /// A part of a request was read; the rest has not come.
    Asking,
    /// Its answer is with the kernel.
    Idle,
    /// Its answer is being written.
    Answering,
    /// Its answer is a stream; all of it so far is with the kernel, and the rest is not made yet.
    Streaming,
    /// Its answer is being made.
    Making,
    /// It was closed to make way for another one. This phase is final.
    Gone,
}

const PHASES: [Phase; 7] =
    [Phase::Silent, Phase::Asking, Phase::Idle, Phase::Answering, Phase::Streaming, Phase::Making, Phase::Gone];

/// What is known of a connection to decide whether it has to make way.
#[derive(Debug)]
pub struct Client {
    opened: Instant,
    phase: AtomicU8,
    /// When the phase began, and when anything moved, in nanoseconds since it was opened.
    since_ns: AtomicU64,
    moved_ns: AtomicU64,
}

impl Client {
    /// A connection that was opened at `now`.
    pub fn new(now: Instant) -> Client {
        Client {
            opened: now,
            phase: AtomicU8::new(Phase::Silent as u8),
            since_ns: AtomicU64::new(0),
            moved_ns: AtomicU64::new(0),
        }
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    /// Enters a phase. False: it is in that phase already, or is gone.
    pub fn enter(&self, phase: Phase, now: Instant) -> bool {
        let next = |before: u8| (before != phase as u8 && before != Phase::Gone as u8).then_some(phase as u8);
        let Ok(before) = self.phase.fetch_update(Relaxed, Relaxed, next) else { return false };
        // A stream is as old as its first byte, however often it has to wait for more.
        let streams = |phase: u8| phase == Phase::Answering as u8 || phase == Phase::Streaming as u8;
        if !(streams(before) && streams(phase as u8)) {
            self.since_ns.store(self.at(now), Relaxed);
        }
        self.moved(now);
        true
    }

    /// Records that it has sent or read something.
    pub fn moved(&self, now: Instant) {
        self.moved_ns.store(self.at(now), Relaxed);
    }

    /// It was closed to make way for another.
    pub fn has_made_way(&self) -> bool {
        self.phase() == Phase::Gone
    }

    /// Makes it go, unless it has left this phase meanwhile.
    fn go(&self, phase: Phase) -> bool {
        self.phase.compare_exchange(phase as u8, Phase::Gone as u8, Relaxed, Relaxed).is_ok()
    }

    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.opened).as_nanos() as u64
    }

    fn ago(&self, at: &AtomicU64, now: Instant) -> Duration {
        Duration::from_nanos(self.at(now).saturating_sub(at.load(Relaxed)))
    }

    /// The connection with the greatest rank makes way first; one without a rank stays. Connections that have sent nothing for a while
    /// go before all others. Within a class, the one that has been in its phase for the longest time goes first: otherwise a few of
    /// one kind could keep their places, and newcomers would compete for the rest.
    fn rank(&self, now: Instant) -> Option<(u8, Duration)> {
        let (since, still) = (self.ago(&self.since_ns, now), self.ago(&self.moved_ns, now));
        match self.phase() {
            Phase::Silent if still >= STALLED => Some((2, still)),
            Phase::Silent if still >= GREETING => Some((1, still)),
            // The age of the request counts, so that a byte now and then does not keep the place.
            Phase::Asking => Some((1, since)),
            Phase::Idle => Some((1, still)),
            Phase::Answering if still >= STALLED => Some((1, still)),
            // A stream that waits for what is to come is no client's fault.
            Phase::Answering | Phase::Streaming | Phase::Making if since >= LONG => Some((0, since)),
            Phase::Silent | Phase::Answering | Phase::Streaming | Phase::Making | Phase::Gone => None,
        }
    }
}

/// A connection that can be closed.
pub trait Close {
    /// Something has come that was not read yet.
    fn has_sent(&self) -> bool;
}

/// How many connections there may be at a time.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// From other hosts.
    pub others: usize,
    /// From one address of another host.
    pub per_address: usize,
    /// From this host, which has these places to itself.
    pub own: usize,
}

struct Slot<C> {
    number: u64,
    peer: Peer,
    client: Arc<Client>,
    close: C,
}

/// Connections that have a place; `C` closes one.
pub struct Slots<C> {
    places: ConnectionLimits,
    taken: Vec<Slot<C>>,
    next: u64,
}

impl<C: Close> Slots<C> {
    /// All places are free.
    pub fn new(places: ConnectionLimits) -> Slots<C> {
        Slots { places, taken: Vec::new(), next: 0 }
    }

    /// Makes sure that a newcomer has a place. Returns the connection that is to be closed for it, if any, with its phase.
    ///
    /// # Errors
    ///
    /// There is no place, for this reason.
    pub fn make_way(&mut self, peer: Peer, now: Instant) -> Result<Option<(Phase, C)>, Reason> {
        let own = peer == Peer::Own;
        let (all, same) = (self.count(|slot| (slot.peer == Peer::Own) == own), self.count(|slot| slot.peer == peer));
        if !own && same >= self.places.per_address {
            return self.close(now, |slot| slot.peer == peer).map(Some).ok_or(Reason::Address);
        }
        if all >= if own { self.places.own } else { self.places.others } {
            return self.close(now, |slot| (slot.peer == Peer::Own) == own).map(Some).ok_or(Reason::Full);
        }
        Ok(None)
    }

    /// The number that the next newcomer gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Gives a newcomer its place, until [`Slots::leave`].
    pub fn enter(&mut self, peer: Peer, client: Arc<Client>, close: C) {
        let number = self.next;
        self.next += 1;
        self.taken.push(Slot { number, peer, client, close });
    }

    /// Frees the place of a connection that has ended. One that made way has left already.
    pub fn leave(&mut self, number: u64) {
        self.taken.retain(|slot| slot.number != number);
    }

    /// Makes the client go that has read nothing of its answer for the longest time, if there is one.
    pub fn close_stalled(&mut self, now: Instant) -> Option<C> {
        self.close(now, |slot| slot.client.phase() == Phase::Answering).map(|(_, close)| close)
    }

    /// How many places are taken, and how many of these by clients on this host.
    pub fn taken(&self) -> (usize, usize) {
        (self.taken.len(), self.count(|slot| slot.peer == Peer::Own))
    }

    fn count(&self, is: impl Fn(&Slot<C>) -> bool) -> usize {
        self.taken.iter().filter(|slot| is(slot)).count()
    }

    fn close(&mut self, now: Instant, may: impl Fn(&Slot<C>) -> bool) -> Option<(Phase, C)> {
        let ranked = self.taken.iter().enumerate().filter(|(_, slot)| may(slot));
        let mut ranked: Vec<_> = ranked.filter_map(|(place, slot)| Some((slot.client.rank(now)?, place))).collect();
        // Among equals, the one that came first.
        ranked.sort_by(|(a, first), (b, then)| b.cmp(a).then(first.cmp(then)));
        let (phase, place) = ranked.into_iter().find_map(|(_, place)| {
            let slot = &self.taken[place];
            let phase = slot.client.phase();
            // The server has yet to read what this client has sent: it is not to blame.
            let waits = phase < Phase::Answering && slot.close.has_sent();
            (!waits && slot.client.go(phase)).then_some((phase, place))
        })?;
        Some((phase, self.taken.remove(place).close))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Close for u64 {
        fn has_sent(&self) -> bool {
            false
        }
    }

    const PLACES: ConnectionLimits = ConnectionLimits { others: 4, per_address: 2, own: 1 };

    /// Clients that connect one after the other.
    struct Door {
        slots: Slots<u64>,
        clients: Vec<Arc<Client>>,
        start: Instant,
    }

    impl Door {
        fn new() -> Door {
            Door { slots: Slots::new(PLACES), clients: Vec::new(), start: Instant::now() }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// A client connects. Returns the number of the one that had to go for it, or why it was turned away.
        fn come(&mut self, seconds: u64, peer: Peer) -> Result<Option<u64>, Reason> {
            self.come_at(self.at(seconds), peer)
        }

        fn come_at(&mut self, now: Instant, peer: Peer) -> Result<Option<u64>, Reason> {
            let gone = self.slots.make_way(peer, now)?.map(|(_, number)| number);
            let (number, client) = (self.slots.next(), Arc::new(Client::new(now)));
            self.slots.enter(peer, Arc::clone(&client), number);
            self.clients.push(client);
            Ok(gone)
        }
    }

    fn host(number: u8) -> Peer {
        Peer::other([10, 0, 0, number].into())
    }

    #[test]
    fn the_oldest_that_has_sent_nothing_goes() {
        let mut door = Door::new();
        for host_of in 0..4 {
            assert_eq!(door.come(host_of, host(host_of as u8)), Ok(None));
        }
        door.clients[0].enter(Phase::Asking, door.at(5));
        door.clients[1].enter(Phase::Answering, door.at(5));
        assert_eq!(door.come(5, host(4)), Ok(Some(2)));
        assert_eq!(door.come(5, host(5)), Ok(Some(3)));
        // They all have sent something: now whoever has been at it longest.
        for client in &door.clients[4..] {
            client.enter(Phase::Idle, door.at(6));
        }
        assert_eq!(door.come(7, host(6)), Ok(Some(0)), "half of a request");
        door.clients[6].enter(Phase::Answering, door.at(8));
        door.clients[1].moved(door.at(8));
        assert_eq!(door.come(8, host(7)), Ok(Some(4)), "nothing since its answer; the other one reads its own");
        door.clients[7].enter(Phase::Answering, door.at(8));
        assert_eq!(door.come(9, host(8)), Ok(Some(5)));
        door.clients[8].enter(Phase::Making, door.at(9));
        assert_eq!(door.come(9, host(9)), Ok(Some(1)), "it has stopped to read");
        door.clients[9].enter(Phase::Making, door.at(9));
        for client in &door.clients[6..8] {
            client.moved(door.at(9));
        }
        assert_eq!(door.come(9, host(10)), Err(Reason::Full), "all are being served");
        assert!(door.clients[1].has_made_way() && !door.clients[6].has_made_way());
        assert_eq!(door.come(20, host(10)), Ok(Some(6)), "but not for ever");
    }

    #[test]
    fn no_kind_holds_the_places_against_newcomers() {
        let mut door = Door::new();
        for number in 0..4 {
            door.come(number, host(number as u8)).unwrap();
        }
        for client in &door.clients[..3] {
            client.enter(Phase::Asking, door.at(4));
        }
        door.clients[3].enter(Phase::Idle, door.at(4));
        // The newcomer before has not had the time to say anything.
        let mut came = Vec::new();
        for number in 4..8 {
            came.push(door.come_at(door.at(9) + Duration::from_millis(3 * number), host(number as u8)));
        }
        assert_eq!(came, [Ok(Some(0)), Ok(Some(1)), Ok(Some(2)), Ok(Some(3))]);
    }

    #[test]
    fn an_address_makes_way_for_itself() {
        let mut door = Door::new();
        assert_eq!(door.come(0, host(1)), Ok(None));
        assert_eq!(door.come(1, host(2)), Ok(None));
        assert_eq!(door.come(2, host(2)), Ok(None));
        assert_eq!(door.come(3, host(2)), Ok(Some(1)));
        for client in &door.clients {
            client.enter(Phase::Making, door.at(3));
        }
        assert_eq!(door.come(4, host(2)), Err(Reason::Address));
        assert_eq!(door.come(4, host(3)), Ok(None));
    }

    #[test]
    fn places_of_this_host_are_its_own() {
        let mut door = Door::new();
        for number in 0..10 {
            let _ = door.come(number, host(number as u8));
        }
        assert_eq!(door.come(10, Peer::Own), Ok(None));
        assert_eq!(door.come(11, host(20)), Ok(Some(6)), "another's place");
        assert_eq!(door.come(12, Peer::Own), Ok(Some(10)), "not another's");
    }

    #[test]
    fn a_stream_stalls_only_while_there_is_something_to_read() {
        let mut door = Door::new();
        door.come(0, Peer::Own).unwrap();
        door.clients[0].enter(Phase::Making, door.at(0));
        door.clients[0].enter(Phase::Answering, door.at(0));
        door.clients[0].enter(Phase::Streaming, door.at(0));
        assert_eq!(door.come(3, Peer::Own), Err(Reason::Full), "it waits for what is to come");
        assert_eq!(door.slots.close_stalled(door.at(3)), None);
        door.clients[0].enter(Phase::Answering, door.at(4));
        assert_eq!(door.come_at(door.at(4) + STALLED / 2, Peer::Own), Err(Reason::Full), "it may be about to read");
        assert_eq!(door.come_at(door.at(4) + STALLED, Peer::Own), Ok(Some(0)));

        // It is as old as its first byte, however often it has waited since.
        let mut door = Door::new();
        door.come(0, Peer::Own).unwrap();
        for (seconds, phase) in (0..6).zip([Phase::Answering, Phase::Streaming].into_iter().cycle()) {
            door.clients[0].enter(phase, door.at(seconds));
        }
        assert_eq!(door.come(6, Peer::Own), Ok(Some(0)));
    }

    #[test]
    fn whoever_has_ended_takes_no_place() {
        let mut door = Door::new();
        for number in 0..4 {
            door.come(0, host(number)).unwrap();
        }
        door.slots.leave(2);
        assert_eq!((door.slots.taken(), door.come(1, host(9))), ((3, 0), Ok(None)));
        assert_eq!(door.slots.close_stalled(door.at(9)), None);
        door.clients[1].enter(Phase::Answering, door.at(1));
        assert_eq!(door.slots.close_stalled(door.at(9)), Some(1));
    }
}
