//! What counts as hostile, and who is left alone.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ipnet::IpNet;

use crate::flow::Party;

/// What the detectors look for, and when they report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// True to look for anything at all.
    pub enabled: bool,
    /// True to look for scans: of ports, of addresses, slow, stealthy, by UDP and by ping.
    pub port_scans: bool,
    /// True to look for everything else: floods, brute force, new edges, clear text, unexpected protocols.
    pub patterns: bool,
    /// Whose flows are left alone, whichever end they are.
    pub ignore: Vec<Whom>,
    /// The time in which a threshold has to be reached.
    pub window: Duration,
    /// For how long workloads are watched before an edge between two of them is new.
    pub learning: Duration,
    /// How much is too much.
    pub thresholds: Thresholds,
}

impl Default for Security {
    fn default() -> Security {
        Security {
            enabled: false,
            port_scans: true,
            patterns: true,
            ignore: Vec::new(),
            window: Duration::from_secs(300),
            learning: Duration::from_secs(86_400),
            thresholds: Thresholds::default(),
        }
    }
}

/// How much is too much, within the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Ports of one host that refused or did not answer.
    pub port_scan: u32,
    /// Hosts that refused or did not answer at one port.
    pub address_scan: u32,
    /// Hosts that a source has tried at the least, before its failures are weighed against its successes.
    pub slow_scan: u32,
    /// Ports that got segments as no connection has them.
    pub stealth_scan: u32,
    /// UDP ports of one host that were unreachable.
    pub udp_scan: u32,
    /// Hosts that did not answer a ping.
    pub ping_sweep: u32,
    /// Connections a second that stay half open, five seconds in a row.
    pub syn_flood: u32,
    /// Short dialogues with a login.
    pub brute_force: u32,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            port_scan: 15,
            address_scan: 25,
            slow_scan: 8,
            stealth_scan: 5,
            udp_scan: 20,
            ping_sweep: 25,
            syn_flood: 500,
            brute_force: 30,
        }
    }
}

/// Whom something is about: an end of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Every address in a network, or one.
    Network(IpNet),
    /// A workload, in a namespace or in any.
    Workload {
        /// Its namespace; `None`: any.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
}

impl Whom {
    /// Parses a network, an address, `workload` or `namespace/workload`.
    ///
    /// # Errors
    ///
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Whom> {
        let text = text.trim();
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        if let Ok(network) = network {
            return Ok(Whom::Network(network.trunc()));
        }
        let (namespace, name) = text.split_once('/').map_or((None, text), |(space, name)| (Some(space), name));
        let is_name = |name: &str| {
            let parts = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            // What consists of digits and dots alone was meant to be an address.
            !name.is_empty() && name.chars().all(parts) && name.chars().any(|c| c.is_ascii_lowercase())
        };
        ensure!(
            is_name(name) && namespace.is_none_or(is_name),
            "{text:?} is neither a network (10.1.0.0/16) nor a workload (shop/web)"
        );
        Ok(Whom::Workload { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }
}

impl Whom {
    /// True if it is this address, or this party.
    pub fn is(&self, ip: IpAddr, party: Option<&Party>) -> bool {
        match self {
            Whom::Network(network) => network.contains(&ip.to_canonical()),
            Whom::Workload { namespace, name } => party.is_some_and(|party| {
                party.workload.as_deref() == Some(name)
                    && namespace.as_ref().is_none_or(|space| party.namespace.as_deref() == Some(space))
            }),
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Network(network) => network.fmt(f),
            Whom::Workload { namespace: Some(namespace), name } => write!(f, "{namespace}/{name}"),
            Whom::Workload { namespace: None, name } => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_workloads_are_ignored() {
        for (text, shown) in [
            ("10.1.2.3/16", "10.1.0.0/16"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            (" shop/web ", "shop/web"),
            ("prometheus", "prometheus"),
        ] {
            assert_eq!(Whom::parse(text).unwrap().to_string(), shown);
        }
        for bad in ["", "10.1.0.0/33", "10.1.2", "a/b/c", "/web", "shop/", "Web", "a b", "*"] {
            assert!(Whom::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_workload_is_one_in_its_namespace() {
        let party = Party { namespace: Some("shop".into()), workload: Some("web".into()), ..Party::default() };
        let ip: IpAddr = "10.1.2.3".parse().unwrap();
        for (text, is) in [
            ("web", true),
            ("shop/web", true),
            ("test/web", false),
            ("shop", false),
            ("10.1.0.0/16", true),
            ("10.2.0.0/16", false),
        ] {
            assert_eq!(Whom::parse(text).unwrap().is(ip, Some(&party)), is, "{text}");
        }
        assert!(!Whom::parse("web").unwrap().is(ip, None));
    }
}
