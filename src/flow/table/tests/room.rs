//! The table's memory is that of the flows in it, whatever was in it before.

use super::*;

/// The record of one flow among very many: a SYN without an answer.
fn one_of_many(number: u32, second: u64) -> Record {
    let mut record = syn(0, second);
    record.source.address[4..8].copy_from_slice(&number.to_ne_bytes());
    Record { v6: true, ..record }
}

/// The capacity of everything that grows with traffic, in entries.
fn room(table: &Table) -> usize {
    let Table { flows, index, young, unnamed, .. } = table;
    [flows.capacity(), index.capacity(), young.capacity(), unnamed.capacity()].into_iter().max().unwrap()
}

#[test]
fn a_flood_takes_no_more_memory_than_its_flows() {
    const FLOWS: usize = 2000;
    let (mut table, mut log) = (table(FLOWS), Log::default());
    let mut most = 0;
    for second in 100..900 {
        for number in 0..1000 {
            table.merge(&one_of_many(second as u32 * 1000 + number, second), &mut log);
        }
        table.expire(second * SECOND, &mut log);
        most = most.max(room(&table));
    }
    assert!(table.len() <= FLOWS && most <= 4 * FLOWS, "{} flows, room for {most}", table.len());
    table.expire(10_000 * SECOND, &mut log);
    table.expire(10_010 * SECOND, &mut log);
    assert_eq!((table.len(), table.flows.capacity()), (0, 0));
    assert!(room(&table) <= 2048, "{}", room(&table));
}

/// The same ports are used again and again: each time a flow begins and the one before it goes.
#[test]
fn flows_that_are_gone_take_no_room_in_queues() {
    let (mut table, mut log) = (table(1000), Log::default());
    for number in 0..20_000u32 {
        let at_ns = 100 * SECOND + u64::from(number) * SECOND / 20;
        let at = |record: Record, at_ns| Record { first_ns: at_ns, last_ns: at_ns, ..record };
        let sequence = Sequence { end: Some(number.wrapping_mul(0x1000_0001)), ..Sequence::default() };
        table.merge(&Record { sequence, ..at(syn(1, 100), at_ns) }, &mut log);
        table.merge(&at(flags(reply(packet(1, 100)), RST | ACK), at_ns + 1_000_000), &mut log);
    }
    assert_eq!((table.len(), log.ended.len()), (1, 19_999));
    assert!(table.flows.capacity() <= 64 && room(&table) <= 1 << 15, "{}", room(&table));
    table.expire(1100 * SECOND, &mut log);
    assert!(room(&table) <= 2048, "{}", room(&table));
    let waiting = std::iter::from_fn(|| table.wheel.pop(&mut table.flows)).count();
    assert_eq!(waiting, 1);
}

#[test]
fn a_burst_leaves_only_the_memory_of_flows_that_outlive_it() {
    let (mut table, mut log) = (table(1 << 20), Log::default());
    for number in 0..100_000 {
        table.merge(&one_of_many(number, 100), &mut log);
    }
    assert!(room(&table) >= 100_000);
    // Some are answered, and continue.
    for number in (0..100_000).step_by(1000) {
        let mut answer = reply(one_of_many(number, 101));
        (answer.tcp_flags, answer.syn_ack) = (2 | ACK, true);
        table.merge(&answer, &mut log);
        table.merge(&Record { syn: false, tcp_flags: ACK, ..one_of_many(number, 101) }, &mut log);
    }
    for second in 102..160 {
        table.expire(second * SECOND, &mut log);
    }
    assert_eq!(table.len(), 100);
    assert!(table.flows.capacity() <= 100 * 64 && room(&table) <= 100 * 64, "{}", room(&table));
}

/// However many busy connections there are: they are examined and stay. The flood's own flows make room.
#[test]
fn a_flood_displaces_its_own_flows_not_busy_connections() {
    const BUSY: u16 = 500;
    let (mut table, mut log) = (table(2000), Log::default());
    for port in 0..BUSY {
        table.merge(&syn(port, 100), &mut log);
        table.merge(&syn_ack(port, 100), &mut log);
    }
    for second in 101..180 {
        for port in 0..BUSY {
            table.merge(&packet(port, second), &mut log);
            table.merge(&reply(packet(port, second)), &mut log);
        }
        for number in 0..4000 {
            table.merge(&one_of_many(second as u32 * 4000 + number, second), &mut log);
        }
        table.expire(second * SECOND, &mut log);
    }
    let busy = table.iter().filter(|flow| !flow.v6()).count();
    assert_eq!(busy, usize::from(BUSY));
    assert!(table.iter().filter(|flow| !flow.v6()).all(|flow| flow.from_client().packets == 80));
    table.bound(usize::from(BUSY) + 10, &mut log);
    assert_eq!((table.len(), table.iter().filter(|flow| !flow.v6()).count()), (510, 500), "nor by a lower bound");
}
