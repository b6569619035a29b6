//! Places for connections: how many there are, how many one address may have, and who makes way when all are taken.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt};

use super::client::{Client, Phase};
use super::{Peer, Reason};

/// A connection that can be closed.
pub trait Close {
    /// Something has come that was not read yet.
    fn has_sent(&self) -> bool;

    /// More can be written than was.
    fn has_room(&self) -> bool;
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

    /// Makes sure that a newcomer has a place. Returns the connection that is to be closed for it, if any, with its phase: one that
    /// does not use its place, or else one of an address that has more of them than the newcomer's.
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
            let closed = self.close(now, |slot| (slot.peer == Peer::Own) == own);
            return closed.or_else(|| self.close_of_many(now, same)).map(Some).ok_or(Reason::Full);
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
        let has = self.by_peer();
        let ranked = self.taken.iter().enumerate().filter(|(_, slot)| may(slot));
        let rank = |(place, slot): (usize, &Slot<C>)| {
            let (class, age) = slot.client.rank(now)?;
            // This host has places of its own, and is no peer like the others.
            let has = if slot.peer == Peer::Own { 0 } else { has[&slot.peer] };
            Some(((class, has, age), place))
        };
        let mut ranked: Vec<_> = ranked.filter_map(rank).collect();
        // Among equals, the one that came first.
        ranked.sort_by(|(a, first), (b, then)| b.cmp(a).then(first.cmp(then)));
        let (phase, place) = ranked.into_iter().find_map(|(_, place)| {
            let slot = &self.taken[place];
            let phase = slot.client.phase();
            // The server has yet to read what this client has sent, or to write what it can take: it is not to blame.
            let waits = match phase {
                Phase::Silent | Phase::Asking | Phase::Idle => slot.close.has_sent(),
                Phase::Answering => slot.close.has_room(),
                Phase::Streaming | Phase::Making | Phase::Gone => false,
            };
            (!waits && slot.client.go(phase)).then_some((phase, place))
        })?;
        Some((phase, self.taken.remove(place).close))
    }

    /// Makes a client go whose address has most connections, and at least two more than the newcomer's: whatever they are doing, they
    /// take more than their part. Otherwise a burst from many addresses could turn away a client that comes once. The one that came
    /// last goes: who has waited longest is answered next.
    fn close_of_many(&mut self, now: Instant, newcomers: usize) -> Option<(Phase, C)> {
        let has = self.by_peer();
        let others = self.taken.iter().enumerate().filter(|(_, slot)| slot.peer != Peer::Own);
        let (most, _, place) =
            others.map(|(place, slot)| (has[&slot.peer], Reverse(slot.client.age(now)), place)).max()?;
        if most < newcomers + 2 {
            return None;
        }
        let phase = self.taken[place].client.leave()?;
        Some((phase, self.taken.remove(place).close))
    }

    /// How many connections each peer has.
    fn by_peer(&self) -> HashMap<Peer, usize> {
        let mut has = HashMap::new();
        self.taken.iter().for_each(|slot| *has.entry(slot.peer).or_default() += 1);
        has
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::STALLED;
    use super::*;

    impl Close for u64 {
        fn has_sent(&self) -> bool {
            false
        }

        fn has_room(&self) -> bool {
            *self == ROOMY
        }
    }

    /// More can be written to this one.
    const ROOMY: u64 = 3;

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
    fn an_address_with_many_makes_way_for_one_with_fewer() {
        let mut door = Door::new();
        for number in [1, 1, 2, 2] {
            door.come(0, host(number)).unwrap();
        }
        for (client, seconds) in door.clients.iter().zip([1, 1, 1, 2]) {
            client.enter(Phase::Making, door.at(seconds));
        }
        assert_eq!(door.come(3, host(1)), Err(Reason::Address));
        assert_eq!(door.come(3, host(3)), Ok(Some(3)), "the latest");
        assert_eq!(door.come(3, host(4)), Ok(Some(1)));
        assert_eq!(door.come(3, host(5)), Err(Reason::Full), "each has one");
        assert_eq!(door.come(3, host(3)), Err(Reason::Full), "each has one");
    }

    #[test]
    fn the_only_one_of_its_address_stays_while_others_have_more() {
        let mut door = Door::new();
        for (seconds, number) in [1, 2, 3, 3].into_iter().enumerate() {
            door.come(seconds as u64, host(number)).unwrap();
        }
        for client in &door.clients {
            client.enter(Phase::Idle, door.at(4));
        }
        assert_eq!(door.come(5, host(4)), Ok(Some(2)));
        assert_eq!(door.come(5, host(5)), Ok(Some(0)), "each has one: the oldest");
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
    fn who_waits_for_the_server_to_write_stays() {
        let mut door = Door::new();
        for number in 0..4 {
            door.come(0, host(number)).unwrap();
            door.clients[usize::from(number)].enter(Phase::Answering, door.at(u64::from(4 - number)));
        }
        for gone in [2, 1, 0] {
            assert_eq!(door.slots.close_stalled(door.at(9)), Some(gone));
        }
        assert_eq!(door.slots.close_stalled(door.at(9)), None);
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
