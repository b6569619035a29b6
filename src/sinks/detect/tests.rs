//! Detection from records to events, on a simulated clock: a flow table, the spotter of its shard, and the judge.

mod attacks;
mod benign;
mod node;
mod records;

use std::collections::BTreeMap;

use self::node::Node;
use self::records::Traffic;
use super::kind::Kind;

/// An hour, in seconds.
const HOUR: u64 = 3600;

/// An hour of it brings no event: of each sort alone, and of all together.
#[test]
fn benign_traffic_brings_no_event() {
    for (name, traffic) in benign::all() {
        let mut node = Node::new();
        node.play(&traffic, HOUR + 600);
        assert_eq!(node.told(), BTreeMap::new(), "{name}");
    }
    let mut node = Node::new();
    let all = benign::all().into_iter().map(|(_, traffic)| traffic).collect::<Traffic>();
    node.play(&all, HOUR + 600);
    assert_eq!(node.told(), BTreeMap::new(), "all together");
    assert!(node.flows() > 100_000, "{}", node.flows());
}

/// All attacks in the midst of everything benign, each by a source of its own. Prints a table of what was found.
#[test]
fn attacks_are_found_and_nobody_else_is_accused() {
    let (attacks, benign) = (attacks::all(), benign::all());
    let mut expected: BTreeMap<_, u32> = BTreeMap::new();
    for attack in &attacks {
        *expected.entry((attack.kind, Some(attack.who))).or_default() += 1;
    }
    let names: Vec<_> = attacks.iter().map(|one| (one.name, one.kind, one.who)).collect();
    let attacks = attacks.into_iter().map(|attack| attack.traffic);
    let mut node = Node::new();
    node.play(&benign.into_iter().map(|(_, traffic)| traffic).chain(attacks).collect::<Traffic>(), HOUR + 600);
    let told = node.told();
    for (name, kind, who) in names {
        let found = told.get(&(kind, Some(who))).copied().unwrap_or_default();
        println!("{name:<40} {:<13} {:<16} {found:>4}", kind.name(), who.to_string());
    }
    println!("\n{:<18} {:>8} {:>6} {:>6}  {:>6} {:>9}", "kind", "attacks", "found", "false", "recall", "precision");
    for kind in Kind::ALL {
        let of = |all: &BTreeMap<(Kind, _), u32>| all.keys().filter(|(other, _)| *other == kind).count();
        let attacks = of(&expected);
        let found = expected.keys().filter(|key| key.0 == kind && told.contains_key(*key)).count();
        let wrong = told.keys().filter(|key| key.0 == kind && !expected.contains_key(*key)).count();
        if attacks + wrong == 0 {
            continue;
        }
        let share = |part: usize, all: usize| if all == 0 { 1.0 } else { part as f64 / all as f64 };
        let (recall, precision) = (share(found, attacks), share(found, found + wrong));
        println!("{:<18} {attacks:>8} {found:>6} {wrong:>6}  {recall:>6.2} {precision:>9.2}", kind.name());
    }
    let wrong: Vec<_> = told.keys().filter(|key| !expected.contains_key(*key)).collect();
    let missed: Vec<_> = expected.keys().filter(|key| !told.contains_key(*key)).collect();
    assert!(wrong.is_empty() && missed.is_empty(), "wrong: {wrong:?}; missed: {missed:?}");
}
