//! Which interfaces to watch.

use anyhow::{Context, Result};
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::bpf::Link;

/// A choice of interfaces by name: globs, with a leading `!` to leave out. Without a glob that takes in, every interface
/// that is up, loopback excepted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    patterns: Vec<String>,
    wanted: GlobSet,
    unwanted: GlobSet,
    automatic: bool,
}

impl Selection {
    /// From patterns such as `eth0`, `veth*`, `!docker0`; none: automatic.
    pub fn new(patterns: &[String]) -> Result<Selection> {
        let (mut wanted, mut unwanted) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let mut automatic = true;
        for pattern in patterns {
            let glob = |text: &str| {
                anyhow::ensure!(!text.is_empty(), "interface pattern {pattern:?} names nothing");
                Glob::new(text)
                    .with_context(|| format!("interface pattern {pattern:?}: use a name or a glob such as \"veth*\""))
            };
            match pattern.strip_prefix('!') {
                Some(rest) => unwanted.add(glob(rest)?),
                None => {
                    automatic = false;
                    wanted.add(glob(pattern)?)
                }
            };
        }
        let build = |set: GlobSetBuilder| set.build().context("interface patterns");
        Ok(Selection { patterns: patterns.to_vec(), wanted: build(wanted)?, unwanted: build(unwanted)?, automatic })
    }

    /// The interfaces to watch.
    pub fn choose(&self, links: Vec<Link>) -> Vec<Link> {
        links.into_iter().filter(|link| self.takes(link)).collect()
    }

    fn takes(&self, link: &Link) -> bool {
        let named = self.patterns.is_empty() || self.automatic || self.wanted.is_match(&link.name);
        let fits = if self.patterns.is_empty() || self.automatic { link.up && !link.loopback } else { link.up };
        named && fits && link.framing.is_some() && !self.unwanted.is_match(&link.name)
    }

    /// As they were given.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::Framing;

    fn link(name: &str) -> Link {
        let framing = Some(Framing::Ethernet);
        let (up, loopback) = (!name.starts_with("down"), name == "lo");
        Link { index: 1, name: name.to_owned(), up, loopback, framing, workload: false }
    }

    fn chosen(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|&p| p.to_owned()).collect();
        let links = ["lo", "eth0", "veth1", "veth2", "docker0", "down0"].map(link).to_vec();
        Selection::new(&patterns).unwrap().choose(links).into_iter().map(|l| l.name).collect()
    }

    #[test]
    fn selects_by_name() {
        assert_eq!(chosen(&[]), ["eth0", "veth1", "veth2", "docker0"]);
        assert_eq!(chosen(&["lo"]), ["lo"]);
        assert_eq!(chosen(&["veth*", "!veth2"]), ["veth1"]);
        assert_eq!(chosen(&["!veth*"]), ["eth0", "docker0"]);
        assert_eq!(chosen(&["down0"]), [""; 0]);
    }

    #[test]
    fn bad_patterns_are_named() {
        let error = |pattern: &str| format!("{:#}", Selection::new(&[pattern.to_owned()]).unwrap_err());
        assert!(error("veth[").contains("veth["));
        assert!(error("!").contains("\"!\""));
    }
}
