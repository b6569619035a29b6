//! Which interfaces are watched, who else has their packets, and what nobody shows.

use std::collections::BTreeMap;

use anyhow::Result;

use super::owners::Owners;
use super::{BlindSpot, Check};
use crate::agent::UNLINKED_KINDS;
use crate::bpf::{self, Hooked, Link, Place};
use crate::config::{Choice, Config};

/// Names in one line.
const NAMES: usize = 8;

pub(super) fn check(config: &Config, blind_spots: &mut Vec<BlindSpot>) -> Vec<Check> {
    let links: BTreeMap<u32, Link> = match bpf::list_links() {
        Ok(links) => links.into_iter().map(|link| (link.index, link)).collect(),
        Err(error) => {
            return vec![Check::fail(
                "interfaces",
                format!("{error:#}"),
                "netmon needs netlink (AF_NETLINK): allow it",
            )];
        }
    };
    let mut checks = chosen(config, &links, blind_spots);
    let owners = Owners::read();
    let mut others = 0;
    for link in links.values().filter(|link| config.interfaces.judge(link, &links) == Choice::Watch) {
        match bpf::list_hooked(link.index) {
            Ok(hooked) => {
                let found = hooked_checks(&link.name, &hooked, &owners, config.clsact, blind_spots);
                others += found.len();
                checks.extend(found);
            }
            Err(error) => {
                others += 1;
                checks.push(Check::unknown(&format!("programs on {}", link.name), &format!("{error:#}")));
            }
        }
    }
    if others == 0 {
        checks.push(Check::ok("other programs", "none on the interfaces that are watched"));
    }
    blind_spots.extend(unlinked(config));
    checks
}

fn chosen(config: &Config, links: &BTreeMap<u32, Link>, blind_spots: &mut Vec<BlindSpot>) -> Vec<Check> {
    let of = |wanted| {
        let chosen = links.values().filter(move |link| config.interfaces.judge(link, links) == wanted);
        chosen.map(|link| format!("{} ({})", link.name, link.kind)).collect::<Vec<_>>()
    };
    let mut checks = Vec::new();
    let watched = of(Choice::Watch);
    let missing = config.interfaces.missing(links);
    if !missing.is_empty() {
        let names: Vec<&str> = links.values().map(|link| link.name.as_str()).collect();
        let detail = format!("there is no {}; there are {}", missing.join(", "), names.join(", "));
        checks.push(Check::fail("interfaces", detail, "name one of these with --interface"));
    } else if watched.is_empty() {
        let detail = format!("none to watch yet: waiting for {}", config.interfaces.describe());
        checks.push(Check::warn("interfaces", detail, "ip -brief link; netmon --interface NAME"));
    } else {
        checks.push(Check::ok("interfaces", format!("{} watched: {}", watched.len(), shorten(&watched))));
    }
    let skipped = [
        (Choice::Excluded, "excluded, as configured or by default (loopback, ifb)"),
        (Choice::Repeats, "repeat an interface that is watched"),
        (Choice::NotIp, "neither Ethernet nor IP"),
    ];
    for (choice, why) in skipped {
        let names = of(choice);
        if !names.is_empty() {
            checks.push(Check::ok(format!("interfaces: {}", choice.name()), format!("{}: {why}", shorten(&names))));
        }
        if choice != Choice::Repeats && !names.is_empty() {
            let plain = names[0].split(' ').next().unwrap_or_default();
            blind_spots.push(BlindSpot {
                name: format!("traffic of {}", shorten(&names)),
                detail: why.to_owned(),
                remedy: (choice == Choice::Excluded)
                    .then(|| format!("netmon --interface '*' (or --interface {plain})")),
            });
        }
    }
    checks
}

/// A line each for what is not ours.
fn hooked_checks(
    link: &str,
    hooked: &[Hooked],
    owners: &Owners,
    clsact: bool,
    blind_spots: &mut Vec<BlindSpot>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for (at, other) in hooked.iter().enumerate().filter(|(_, other)| !other.ours) {
        let name = format!("{} on {link}", side(other));
        let owner = match other.id {
            Some(id) => format!("{} (id {id}), {}", other.name, owners.describe(id, other.loaded_by)),
            None => other.name.clone(),
        };
        let before = comes_first(hooked, at, clsact);
        if !before {
            checks.push(Check::ok(name, format!("{owner}; netmon has packets first")));
            continue;
        }
        blind_spots.push(BlindSpot {
            name: format!("what {} does at {name}", other.name),
            detail: "packets that it drops, ends the way of or redirects are not seen by netmon".to_owned(),
            remedy: None,
        });
        let remedy = match other.place {
            Place::Xdp => format!("ip -details link show dev {link}"),
            // Ours goes to the head when it attaches: a later start takes it.
            Place::Tcx(_) => "restart netmon: it goes to the head of the chain".to_owned(),
            Place::Clsact(_) => format!("tc filter show dev {link} {}", other.hook.name()),
        };
        checks.push(Check::warn(name, format!("{owner}; it has packets before netmon"), remedy));
    }
    checks
}

fn side(other: &Hooked) -> String {
    let hook = other.hook.name();
    match other.place {
        Place::Xdp => "xdp".to_owned(),
        Place::Tcx(_) => format!("tcx {hook}"),
        Place::Clsact(priority) => format!("clsact {hook} (priority {priority})"),
    }
}

/// Of the program at this place in the list: beside an agent that runs, or beside one that would be started.
fn comes_first(hooked: &[Hooked], at: usize, clsact: bool) -> bool {
    let other = &hooked[at];
    if other.place == Place::Xdp {
        return true;
    }
    if let Some(ours) = hooked.iter().position(|one| one.ours && one.hook == other.hook) {
        return at < ours;
    }
    match other.place {
        Place::Xdp => true,
        Place::Tcx(_) => clsact,
        Place::Clsact(priority) => clsact && priority < bpf::CLSACT_PRIORITY,
    }
}

/// Pods that have no link on the host.
fn unlinked(config: &Config) -> Option<BlindSpot> {
    if config.pod_namespaces {
        return None;
    }
    let remedy = Some("netmon --set capture.pod_namespaces=true".to_owned());
    let spot = |name: &str, detail: String| Some(BlindSpot { name: name.to_owned(), detail, remedy: remedy.clone() });
    let namespaces = match bpf::list_namespaces() {
        Ok(namespaces) => namespaces,
        Err(error) => return spot("other network namespaces", format!("{error:#}")),
    };
    let (mut names, mut closed) = (Vec::new(), 0);
    for namespace in namespaces.values() {
        // On a thread of its own: one that cannot return to its namespace must not go on.
        let found = std::thread::scope(|scope| scope.spawn(|| links_of(namespace)).join());
        match found {
            Ok(Ok(found)) => names.extend(found),
            Ok(Err(_)) | Err(_) => closed += 1,
        }
    }
    if !names.is_empty() {
        return spot("pods without a link on the host", shorten(&names));
    }
    let detail = format!("{closed} cannot be looked into: there may be macvlan, ipvlan or physical interfaces in them");
    if closed > 0 { spot("other network namespaces", detail) } else { None }
}

fn links_of(namespace: &bpf::Namespace) -> Result<Vec<String>> {
    let links = namespace.within(bpf::list_links)?.transpose()?.unwrap_or_default();
    let hidden = links.into_iter().filter(|link| UNLINKED_KINDS.contains(&link.kind.as_str()));
    Ok(hidden.map(|link| format!("{} ({}) in {}", link.name, link.kind, namespace.name)).collect())
}

fn shorten(names: &[String]) -> String {
    match names.split_at_checked(NAMES) {
        Some((shown, more)) if !more.is_empty() => format!("{} and {} more", shown.join(", "), more.len()),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::Hook;

    fn hooked(hook: Hook, place: Place, ours: bool) -> Hooked {
        Hooked { hook, place, name: "x".to_owned(), id: Some(1), loaded_by: None, ours }
    }

    #[test]
    fn who_comes_first() {
        let tcx = |at, ours| hooked(Hook::Ingress, Place::Tcx(at), ours);
        let clsact = |priority, ours| hooked(Hook::Ingress, Place::Clsact(priority), ours);
        // Beside an agent that runs.
        let chain = [tcx(0, false), tcx(1, true), tcx(2, false), clsact(1, false)];
        let first: Vec<bool> = (0..4).map(|at| comes_first(&chain, at, false)).collect();
        assert_eq!(first, [true, false, false, false]);
        // The other hook tells nothing.
        let other = [hooked(Hook::Egress, Place::Tcx(0), true), tcx(0, false)];
        assert!(!comes_first(&other, 1, false));
        // Before any agent runs.
        assert!(!comes_first(&[tcx(0, false)], 0, false), "netmon goes to the head");
        assert!(comes_first(&[tcx(0, false)], 0, true));
        assert!(comes_first(&[clsact(1, false)], 0, true));
        assert!(!comes_first(&[clsact(7, false)], 0, true));
        assert!(comes_first(&[hooked(Hook::Ingress, Place::Xdp, false)], 0, false));
    }
}
