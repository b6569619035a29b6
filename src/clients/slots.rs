//! Places for connections: how many there are, how many one address may have, and who makes way when all are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Peer, Reason};

/// One that has just come may be about to say what it wants.
pub const GREETING: Duration = Duration::from_millis(2);
/// A client that has read nothing of its answer for so long does not keep its place when others want it.
const STALLED: Duration = Duration::from_millis(250);
/// One that has had its place for an answer this long does not, however it goes on.
const LONG: Duration = Duration::from_secs(5);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// It was opened, and nothing has come.
    Silent,
    /// A part of a request was read, and the rest has not come.
    Asking,
    /// Its answer is with the kernel.
    Idle,
    /// Its answer is being written.
    Answering,
    /// Its answer is being made.
    Making,
    /// It was closed to make way for another: nothing more comes of it.
    Gone,
}

const PHASES: [Phase; 6] = [Phase::Silent, Phase::Asking, Phase::Idle, Phase::Answering, Phase::Making, Phase::Gone];

/// A connection, as those see it that want its place.
#[derive(Debug)]
pub struct Client {
    opened: Instant,
    phase: AtomicU8,
    /// When the phase began, and when anything moved, in nanoseconds since it was opened.
    since_ns: AtomicU64,
    moved_ns: AtomicU64,
}

impl Client {
    /// One that was opened now.
    pub fn new(now: Instant) -> Client {
        Client {
            opened: now,
            phase: AtomicU8::new(Phase::Silent as u8),
            since_ns: AtomicU64::new(0),
            moved_ns: AtomicU64::new(0),
        }
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    /// It does something else from now on; false if it did so before, or is gone.
    pub fn enter(&self, phase: Phase, now: Instant) -> bool {
        let next = |before: u8| (before != phase as u8 && before != Phase::Gone as u8).then_some(phase as u8);
        let entered = self.phase.fetch_update(Relaxed, Relaxed, next).is_ok();
        if entered {
            self.since_ns.store(self.at(now), Relaxed);
            self.moved(now);
        }
        entered
    }

    /// It has sent or read something.
    pub fn moved(&self, now: Instant) {
        self.moved_ns.store(self.at(now), Relaxed);
    }

    /// It was closed to make way for another.
    pub fn has_made_way(&self) -> bool {
        self.phase() == Phase::Gone
    }

    /// It goes, unless it has just come to do something else than this.
    fn go(&self, phase: Phase) -> bool {
        self.phase.compare_exchange(phase as u8, Phase::Gone as u8, Relaxed, Relaxed).is_ok()
    }

    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.opened).as_nanos() as u64
    }

    fn ago(&self, at: &AtomicU64, now: Instant) -> Duration {
        Duration::from_nanos(self.at(now).saturating_sub(at.load(Relaxed)))
    }

    /// The greater goes first; `None`: it stays. Whoever has said nothing for a while goes before all others; of those the one that
    /// has been at it longest: else a few of one kind would hold the places, and newcomers fight for what is left.
    fn rank(&self, now: Instant) -> Option<(u8, Duration)> {
        let (since, still) = (self.ago(&self.since_ns, now), self.ago(&self.moved_ns, now));
        match self.phase() {
            Phase::Silent if still >= STALLED => Some((2, still)),
            Phase::Silent if still >= GREETING => Some((1, still)),
            // One that sends a byte now and then is as old as its request.
            Phase::Asking => Some((1, since)),
            Phase::Idle => Some((1, still)),
            Phase::Answering if still >= STALLED => Some((1, still)),
            Phase::Answering | Phase::Making if since >= LONG => Some((0, since)),
            Phase::Silent | Phase::Answering | Phase::Making | Phase::Gone => None,
        }
    }
}

/// What ends a connection.
pub trait Close {
    /// Something has come that was not read yet.
    fn has_sent(&self) -> bool;
}

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// For clients elsewhere.
    pub others: usize,
    /// Of these, for one address.
    pub per_address: usize,
    /// For those on this host: nobody else takes them.
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
    places: Places,
    taken: Vec<Slot<C>>,
    next: u64,
}

impl<C: Close> Slots<C> {
    /// All are free.
    pub fn new(places: Places) -> Slots<C> {
        Slots { places, taken: Vec::new(), next: 0 }
    }

    /// Makes sure of a place for a newcomer: what is to be closed for it, if anything, and what that was doing; or why there is none.
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

    /// The number that the next one gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A newcomer has its place; to be given back by [`Slots::leave`].
    pub fn enter(&mut self, peer: Peer, client: Arc<Client>, close: C) {
        let number = self.next;
        self.next += 1;
        self.taken.push(Slot { number, peer, client, close });
    }

    /// It has ended. One that made way has left already.
    pub fn leave(&mut self, number: u64) {
        self.taken.retain(|slot| slot.number != number);
    }

    /// All leave.
    pub fn drain(&mut self) -> Vec<C> {
        self.taken.drain(..).map(|slot| slot.close).collect()
    }

    /// Whoever has longest read nothing of an answer makes way.
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
        // Of equals the first that came.
        ranked.sort_by(|(a, first), (b, then)| b.cmp(a).then(first.cmp(then)));
        let (phase, place) = ranked.into_iter().find_map(|(_, place)| {
            let slot = &self.taken[place];
            let phase = slot.client.phase();
            // What has come and was not read yet is our fault, not the client's.
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

    const PLACES: Places = Places { others: 4, per_address: 2, own: 1 };

    /// Clients that come one after the other, a second apart.
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

        /// Comes in, and who had to go for it; why it could not.
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
