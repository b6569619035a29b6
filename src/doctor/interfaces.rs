//! Checks which interfaces are watched, which other programs get their packets, and what traffic netmon cannot see.

use std::collections::BTreeMap;

use anyhow::Result;

use super::owners::Owners;
use super::{BlindSpot, Check, Help, shorten};
use crate::bpf::{self, ChainPlace, Hooked, Link};
use crate::config::{Choice, Config};

pub(super) fn check(config: &Config, help: Help, blind_spots: &mut Vec<BlindSpot>) -> Vec<Check> {
    let links: BTreeMap<u32, Link> = match bpf::list_links() {
        Ok(links) => links.into_iter().map(|link| (link.index, link)).collect(),
        Err(error) => {
            return vec![Check::fail(
                "interfaces",
                format!("{error:#}"),
                "allow netlink sockets (AF_NETLINK), which netmon needs",
            )];
        }
    };
    let mut checks = chosen(config, &links, help, blind_spots);
    let (mut found, mut unknown) = (Others::default(), BTreeMap::<String, Vec<String>>::new());
    for link in links.values().filter(|link| config.interfaces.judge(link, &links) == Choice::Watch) {
        match bpf::list_hooked(link.index) {
            Ok(hooked) => found.add(&link.name, &hooked, config.clsact),
            Err(error) => unknown.entry(format!("{error:#}")).or_default().push(link.name.clone()),
        }
    }
    checks.extend(unknown.iter().map(|(why, links)| Check::unknown(&format!("programs on {}", shorten(links)), why)));
    if found.0.is_empty() && unknown.is_empty() {
        checks.push(Check::ok("other programs", "none on the interfaces that are watched"));
    }
    checks.extend(found.checks(&Owners::read(), help, blind_spots));
    blind_spots.extend(unlinked(config, help));
    checks
}

fn chosen(config: &Config, links: &BTreeMap<u32, Link>, help: Help, blind_spots: &mut Vec<BlindSpot>) -> Vec<Check> {
    let of = |wanted| {
        let chosen = links.values().filter(move |link| config.interfaces.judge(link, links) == wanted);
        chosen.map(|link| format!("{} ({})", link.name, link.kind)).collect::<Vec<_>>()
    };
    let mut checks = Vec::new();
    let watched = of(Choice::Watch);
    let missing = config.interfaces.missing(links);
    if !missing.is_empty() {
        let names: Vec<&str> = links.values().map(|link| link.name.as_str()).collect();
        let detail = format!("{} not found; existing interfaces: {}", missing.join(", "), names.join(", "));
        let remedy = help.either(
            "name one of these with --interface",
            "name one of these in capture.interfaces, in the ConfigMap netmon-config",
        );
        checks.push(Check::fail("interfaces", detail, remedy));
    } else if watched.is_empty() {
        let detail = format!("none to watch yet; would watch: {}", config.interfaces.describe());
        let remedy = help.either(
            "ip -brief link; netmon --interface NAME",
            "set hostNetwork: true in the pod's spec if it is missing, else capture.interfaces in the ConfigMap netmon-config",
        );
        checks.push(Check::warn("interfaces", detail, remedy));
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
                remedy: (choice == Choice::Excluded).then(|| {
                    help.either(
                        format!("netmon --interface '*' (or --interface {plain})"),
                        format!("capture.interfaces: [\"*\"] (or [{plain}]) in the ConfigMap netmon-config"),
                    )
                }),
            });
        }
    }
    checks
}

/// Programs of others. Equal programs on many interfaces are one check: a node has as many interfaces as pods, with
/// others' programs on each.
#[derive(Default)]
struct Others(BTreeMap<Group, Vec<(String, Option<u32>)>>);

/// What programs that are reported on one line have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    /// True if netmon gets packets first. Programs that get them before netmon are sorted first.
    after: bool,
    side: String,
    name: String,
    place: ChainPlace,
    hook: &'static str,
    loaded_by: Option<u32>,
}

impl Others {
    fn add(&mut self, link: &str, hooked: &[Hooked], clsact: bool) {
        for (at, other) in hooked.iter().enumerate().filter(|(_, other)| !other.ours) {
            let place = match other.place {
                // The position in the chain may differ.
                ChainPlace::Tcx(_) => ChainPlace::Tcx(0),
                place => place,
            };
            let group = Group {
                after: !comes_first(hooked, at, clsact),
                side: side(other),
                name: other.name.clone(),
                place,
                hook: other.hook.name(),
                loaded_by: other.loaded_by,
            };
            self.0.entry(group).or_default().push((link.to_owned(), other.id));
        }
    }

    fn checks(&self, owners: &Owners, help: Help, blind_spots: &mut Vec<BlindSpot>) -> Vec<Check> {
        let mut checks = Vec::new();
        for (group, on) in &self.0 {
            let mut links: Vec<String> = on.iter().map(|(link, _)| link.clone()).collect();
            links.dedup();
            let mut ids: Vec<u32> = on.iter().filter_map(|(_, id)| *id).collect();
            ids.sort_unstable();
            ids.dedup();
            let name = format!("{} on {}", group.side, shorten(&links));
            let owner = match ids.as_slice() {
                [] => group.name.clone(),
                [id] => format!("{} (id {id}), {}", group.name, owners.describe(&[*id], group.loaded_by)),
                ids => {
                    let shown: Vec<String> = ids.iter().map(u32::to_string).collect();
                    format!("{} (ids {}), {}", group.name, shorten(&shown), owners.describe(ids, group.loaded_by))
                }
            };
            if group.after {
                checks.push(Check::ok(name, format!("{owner}; netmon gets packets first")));
                continue;
            }
            blind_spots.push(BlindSpot {
                name: format!("packets that {} takes at {name}", group.name),
                detail: "netmon does not see packets that it drops, consumes or redirects".to_owned(),
                remedy: None,
            });
            let link = &links[0];
            let remedy = match group.place {
                ChainPlace::Xdp => help.on_host(format!("ip -details link show dev {link}")),
                // netmon goes to the head of the chain when it attaches, so a restart puts it there.
                ChainPlace::Tcx(_) => format!("{}: it then goes to the head of the chain", help.restart()),
                ChainPlace::Clsact(_) => help.on_host(format!("tc filter show dev {link} {}", group.hook)),
            };
            checks.push(Check::warn(name, format!("{owner}; it gets packets before netmon"), remedy));
        }
        checks
    }
}

fn side(other: &Hooked) -> String {
    let hook = other.hook.name();
    match other.place {
        ChainPlace::Xdp => "xdp".to_owned(),
        ChainPlace::Tcx(_) => format!("tcx {hook}"),
        ChainPlace::Clsact(priority) => format!("clsact {hook} (priority {priority})"),
    }
}

/// True if the program at this place in the list gets packets before netmon: before a running agent, or one that would
/// be started.
fn comes_first(hooked: &[Hooked], at: usize, clsact: bool) -> bool {
    let other = &hooked[at];
    if other.place == ChainPlace::Xdp {
        return true;
    }
    if let Some(ours) = hooked.iter().position(|one| one.ours && one.hook == other.hook) {
        return at < ours;
    }
    match other.place {
        ChainPlace::Xdp => true,
        ChainPlace::Tcx(_) => clsact,
        ChainPlace::Clsact(priority) => clsact && priority < bpf::CLSACT_PRIORITY,
    }
}

/// The blind spot of pods that have no link on the host.
fn unlinked(config: &Config, help: Help) -> Option<BlindSpot> {
    if config.pod_namespaces {
        return None;
    }
    let remedy = Some(help.either(
        "netmon --set capture.pod_namespaces=true",
        "add the component pod-namespaces: capture.pod_namespaces, a hostPath volume of /run/netns and the capability SYS_ADMIN",
    ));
    let spot = |name: &str, detail: String| Some(BlindSpot { name: name.to_owned(), detail, remedy: remedy.clone() });
    let namespaces = match bpf::list_namespaces() {
        Ok(namespaces) => namespaces,
        Err(error) => return spot("other network namespaces", format!("{error:#}")),
    };
    let (mut names, mut closed) = (Vec::new(), 0);
    for namespace in namespaces.values() {
        // This runs on a thread of its own, because a thread that cannot return to its namespace must not go on.
        let found = std::thread::scope(|scope| scope.spawn(|| links_of(namespace)).join());
        match found {
            Ok(Ok(found)) => names.extend(found),
            Ok(Err(_)) | Err(_) => closed += 1,
        }
    }
    if !names.is_empty() {
        return spot("pods without a link on the host", shorten(&names));
    }
    let detail = format!("{closed} cannot be examined: there may be macvlan, ipvlan or physical interfaces in them");
    if closed > 0 { spot("other network namespaces", detail) } else { None }
}

fn links_of(namespace: &bpf::Namespace) -> Result<Vec<String>> {
    let links = namespace.within(bpf::list_links)?.transpose()?.unwrap_or_default();
    let hidden = links.into_iter().filter(|link| link.is_unlinked());
    Ok(hidden.map(|link| format!("{} ({}) in {}", link.name, link.kind, namespace.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::Hook;

    fn hooked(hook: Hook, place: ChainPlace, ours: bool) -> Hooked {
        Hooked { hook, place, name: "x".to_owned(), id: Some(1), loaded_by: None, ours }
    }

    #[test]
    fn programs_are_ordered_by_who_gets_packets_first() {
        let tcx = |at, ours| hooked(Hook::Ingress, ChainPlace::Tcx(at), ours);
        let clsact = |priority, ours| hooked(Hook::Ingress, ChainPlace::Clsact(priority), ours);
        // With a running agent.
        let chain = [tcx(0, false), tcx(1, true), tcx(2, false), clsact(1, false)];
        let first: Vec<bool> = (0..4).map(|at| comes_first(&chain, at, false)).collect();
        assert_eq!(first, [true, false, false, false]);
        // The other hook does not matter.
        let other = [hooked(Hook::Egress, ChainPlace::Tcx(0), true), tcx(0, false)];
        assert!(!comes_first(&other, 1, false));
        // Without an agent.
        assert!(!comes_first(&[tcx(0, false)], 0, false), "netmon goes to the head");
        assert!(comes_first(&[tcx(0, false)], 0, true));
        assert!(comes_first(&[clsact(1, false)], 0, true));
        assert!(!comes_first(&[clsact(7, false)], 0, true));
        assert!(comes_first(&[hooked(Hook::Ingress, ChainPlace::Xdp, false)], 0, false));
    }
}
