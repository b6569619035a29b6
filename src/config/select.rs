//! Selects the interfaces to watch.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use globset::GlobSet;

use super::faults::shown;
use crate::bpf::Link;
use crate::pattern;

/// What to do with an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Watch it.
    Watch,
    /// It is not selected.
    Excluded,
    /// All its packets also pass an interface that is watched.
    Repeats,
    /// Its packets are neither Ethernet nor IP.
    NotIp,
}

impl Choice {
    /// The value of the metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            Choice::Watch => "watched",
            Choice::Excluded => "excluded",
            Choice::Repeats => "repeats",
            Choice::NotIp => "not_ip",
        }
    }
}

/// Kinds whose packets all passed another interface first, or whose other end is on this host.
const DIVERTED: [&str; 2] = ["ifb", "nlmon"];

/// A selection of interfaces by name: globs, with a leading `!` to exclude. Without a glob that includes, it selects
/// every interface that has packets of its own, except loopback.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    patterns: Vec<String>,
    wanted: GlobSet,
    unwanted: GlobSet,
}

impl Selection {
    /// Parses patterns such as `eth0`, `veth*`, `!docker0`. Without any, the selection is automatic.
    ///
    /// # Errors
    ///
    /// A pattern is empty or is not a valid glob.
    pub fn new(patterns: &[String]) -> Result<Selection> {
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for pattern in patterns {
            let rest = pattern.strip_prefix('!');
            let text = rest.unwrap_or(pattern);
            anyhow::ensure!(!text.is_empty(), "interface pattern {pattern:?} is empty");
            let say = || format!("interface pattern \"{}\": use a name or a glob such as \"veth*\"", shown(pattern));
            pattern::glob(text).map_err(anyhow::Error::msg).with_context(say)?;
            if rest.is_some() { unwanted.push(text) } else { wanted.push(text) }
        }
        let set = |texts: Vec<&str>| -> Result<GlobSet> {
            pattern::any(texts.into_iter()).map_err(anyhow::Error::msg).context("interface patterns")
        };
        Ok(Selection { patterns: patterns.to_vec(), wanted: set(wanted)?, unwanted: set(unwanted)? })
    }

    /// Decides what to do with `link`, which is one of `all`.
    pub fn judge(&self, link: &Link, all: &BTreeMap<u32, Link>) -> Choice {
        if link.framing.is_none() {
            return Choice::NotIp;
        }
        if self.unwanted.is_match(&link.name) {
            return Choice::Excluded;
        }
        if !self.is_automatic() {
            return if self.wanted.is_match(&link.name) { Choice::Watch } else { Choice::Excluded };
        }
        let shown_by = |index| all.get(&index).is_some_and(|other| self.judge(other, all) == Choice::Watch);
        if link.loopback || DIVERTED.contains(&link.kind.as_str()) {
            Choice::Excluded
        } else if link.repeats.is_some_and(|other| other != link.index && shown_by(other))
            || self.is_shown_by_ports(link, all)
        {
            Choice::Repeats
        } else {
            Choice::Watch
        }
    }

    /// True for a bridge whose packets all pass a port that is watched, and there from the same side: as coming from a workload,
    /// or not. One with a VLAN device on top, say, shows which packets are that device's.
    fn is_shown_by_ports(&self, bridge: &Link, all: &BTreeMap<u32, Link>) -> bool {
        if !bridge.is_bridge() || bridge.holds_back || all.values().any(|link| link.lower == Some(bridge.index)) {
            return false;
        }
        let mut ports = all.values().filter(|link| link.master == Some(bridge.index)).peekable();
        let shows = |port: &Link| port.workload == bridge.workload && self.judge(port, all) == Choice::Watch;
        ports.peek().is_some() && ports.all(shows)
    }

    /// True if no pattern includes an interface.
    pub fn is_automatic(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Names without wildcards that no interface in `all` has.
    pub fn missing<'a>(&'a self, all: &BTreeMap<u32, Link>) -> Vec<&'a str> {
        let plain = self.patterns.iter().filter(|pattern| !pattern.contains(['!', '*', '?', '[', '{']));
        plain.filter(|name| !all.values().any(|link| link.name == **name)).map(String::as_str).collect()
    }

    /// The selection in words.
    pub fn describe(&self) -> String {
        if self.patterns.is_empty() { "all except loopback".to_owned() } else { self.patterns.join(" ") }
    }

    /// The patterns as they were given.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(names: &[(&str, &str, Option<u32>)]) -> BTreeMap<u32, Link> {
        let link = |index, &(name, kind, repeats): &(&str, &str, Option<u32>)| {
            let mut link = Link::sample(index, name, kind);
            (link.loopback, link.repeats) = (name == "lo", repeats);
            (index, link)
        };
        (1..).zip(names).map(|(index, named)| link(index, named)).collect()
    }

    fn chosen_of(links: &BTreeMap<u32, Link>, patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|&p| p.to_owned()).collect();
        let selection = Selection::new(&patterns).unwrap();
        let taken = links.values().filter(|link| selection.judge(link, links) == Choice::Watch);
        taken.map(|link| link.name.clone()).collect()
    }

    fn chosen(patterns: &[&str]) -> Vec<String> {
        let names = ["lo", "eth0", "veth1", "veth2", "docker0", "ifb0"];
        let kinds = ["physical", "physical", "veth", "veth", "bridge", "ifb"];
        let named: Vec<_> = names.into_iter().zip(kinds).map(|(name, kind)| (name, kind, None)).collect();
        chosen_of(&all(&named), patterns)
    }

    #[test]
    fn selects_by_name() {
        assert_eq!(chosen(&[]), ["eth0", "veth1", "veth2", "docker0"]);
        assert_eq!(chosen(&["lo"]), ["lo"]);
        assert_eq!(chosen(&["ifb*"]), ["ifb0"]);
        assert_eq!(chosen(&["veth*", "!veth2"]), ["veth1"]);
        assert_eq!(chosen(&["!veth*"]), ["eth0", "docker0"]);
    }

    #[test]
    fn interfaces_that_repeat_another_are_left_out() {
        let links = all(&[
            ("bond0", "bond", None),
            ("eth0", "physical", Some(1)),
            ("bond0.5", "vlan", Some(1)),
            ("eth1", "physical", None),
            ("eth1.7", "vlan", Some(4)),
        ]);
        assert_eq!(chosen_of(&links, &[]), ["bond0", "eth1"]);
        assert_eq!(
            chosen_of(&links, &["!bond0"]),
            ["eth0", "bond0.5", "eth1"],
            "no watched interface has their packets"
        );
        assert_eq!(chosen_of(&links, &["eth1*"]), ["eth1", "eth1.7"], "selected by name");
    }

    #[test]
    fn bridges_are_left_to_their_ports() {
        let bridged = |change: fn(&mut BTreeMap<u32, Link>), patterns: &[&str]| {
            let names =
                [("br0", "bridge", None), ("p1", "veth", None), ("p2", "veth", None), ("eth0", "physical", None)];
            let mut links = all(&names);
            for port in 2..=3 {
                links.get_mut(&port).unwrap().master = Some(1);
            }
            change(&mut links);
            chosen_of(&links, patterns).join(" ")
        };
        assert_eq!(bridged(|_| (), &[]), "p1 p2 eth0");
        assert_eq!(bridged(|links| links.values_mut().for_each(|link| link.workload = true), &[]), "p1 p2 eth0");
        assert_eq!(bridged(|_| (), &["br0", "p1", "p2"]), "br0 p1 p2", "selected by name");
        assert_eq!(bridged(|_| (), &["!p1"]), "br0 p2 eth0", "a port is not watched");
        type Change = fn(&mut BTreeMap<u32, Link>);
        let changes: [(Change, &str); 5] = [
            (|links| links.values_mut().for_each(|link| link.master = None), "no ports"),
            (|links| links.get_mut(&1).unwrap().holds_back = true, "filters VLANs"),
            (|links| links.get_mut(&2).unwrap().workload = true, "a pod beside an uplink"),
            (|links| links.get_mut(&4).unwrap().lower = Some(1), "a VLAN on top"),
            (|links| links.get_mut(&2).unwrap().framing = None, "a port that cannot be watched"),
        ];
        for (change, why) in changes {
            assert!(bridged(change, &[]).starts_with("br0"), "{why}");
        }
    }

    #[test]
    fn plain_names_must_exist() {
        let links = all(&[("eth0", "physical", None)]);
        let patterns = ["eth0", "eth7", "veth*", "!eth9"].map(str::to_owned);
        assert_eq!(Selection::new(&patterns).unwrap().missing(&links), ["eth7"]);
    }

    #[test]
    fn bad_patterns_are_named() {
        let error = |pattern: &str| format!("{:#}", Selection::new(&[pattern.to_owned()]).unwrap_err());
        assert!(error("veth[").contains("veth["));
        assert!(error("!").contains("\"!\""));
        assert!(error(&"{".repeat(100)).contains("braces"));
    }
}
