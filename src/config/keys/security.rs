//! Keys about what looks hostile.

use std::time::Duration;

use anyhow::Result;

use super::super::security::Whom;
use super::super::value::Given;
use super::{A_DURATION, A_SECOND, Key, SWITCH, put, span};

const COUNT: &str = "a whole number from 2 to 1000";
const RATE: &str = "a whole number from 2 to 1000000";

/// A threshold that is counted within the window.
macro_rules! threshold {
    ($path:literal, $field:ident, $about:literal) => {
        Key {
            path: $path,
            short: None,
            about: $about,
            valid: COUNT,
            live: true,
            set: |config, given| put(&mut config.security.thresholds.$field, given.number(2..=1000).map(|n| n as u32)),
            get: |config| config.security.thresholds.$field.to_string(),
        }
    };
}

pub(super) static KEYS: &[Key] = &[
    Key {
        path: "features.security_monitoring.enabled",
        short: None,
        about: "look for port scans and other traffic that looks hostile",
        valid: SWITCH,
        live: true,
        set: |config, given| put(&mut config.security.enabled, given.switch()),
        get: |config| config.security.enabled.to_string(),
    },
    Key {
        path: "features.security_monitoring.detect_port_scans",
        short: None,
        about: "look for scans: of ports, of addresses, slow, stealthy, by UDP and by ping",
        valid: SWITCH,
        live: true,
        set: |config, given| put(&mut config.security.port_scans, given.switch()),
        get: |config| config.security.port_scans.to_string(),
    },
    Key {
        path: "features.security_monitoring.detect_suspicious_patterns",
        short: None,
        about: "look for SYN floods, brute force, new edges between workloads, clear text to the outside, unexpected protocols",
        valid: SWITCH,
        live: true,
        set: |config, given| put(&mut config.security.patterns, given.switch()),
        get: |config| config.security.patterns.to_string(),
    },
    Key {
        path: "security.ignore",
        short: None,
        about: "networks and workloads that the detectors leave alone, as source and as target",
        valid: "networks, addresses and workloads: 10.1.0.0/16, 192.0.2.7, shop/scanner, scanner",
        live: true,
        set: |config, given| {
            let texts = given.list().into_iter().filter(|text| !text.is_empty());
            put(&mut config.security.ignore, texts.map(|text| Whom::parse(&text)).collect::<Result<Vec<_>>>())
        },
        get: |config| Given::List(config.security.ignore.iter().map(Whom::to_string).collect()).to_string(),
    },
    Key {
        path: "security.window",
        short: None,
        about: "time in which a threshold has to be reached",
        // What has to settle needs longer than a minute, and silence is known after half of one.
        valid: "a duration such as 300s, 5m, 1h, at least 2m",
        live: true,
        set: |config, given| put(&mut config.security.window, given.duration(Duration::from_secs(120))),
        get: |config| span(config.security.window),
    },
    Key {
        path: "security.learning",
        short: None,
        about: "time after the start in which an edge between two workloads is learned and not reported as new",
        valid: A_DURATION,
        live: true,
        set: |config, given| put(&mut config.security.learning, given.duration(A_SECOND)),
        get: |config| span(config.security.learning),
    },
    threshold!("security.thresholds.port_scan", port_scan, "ports of one host that refused or did not answer"),
    threshold!("security.thresholds.address_scan", address_scan, "hosts that refused or did not answer at one port"),
    Key {
        path: "security.thresholds.slow_scan",
        short: None,
        about: "hosts that a source tries before its failures are weighed against its successes",
        // The latest 32 are remembered.
        valid: "a whole number from 2 to 32",
        live: true,
        set: |config, given| put(&mut config.security.thresholds.slow_scan, given.number(2..=32).map(|n| n as u32)),
        get: |config| config.security.thresholds.slow_scan.to_string(),
    },
    threshold!("security.thresholds.stealth_scan", stealth_scan, "ports that got segments as no connection has them"),
    threshold!("security.thresholds.udp_scan", udp_scan, "UDP ports of one host that were unreachable"),
    threshold!("security.thresholds.ping_sweep", ping_sweep, "hosts that did not answer a ping"),
    Key {
        path: "security.thresholds.syn_flood",
        short: None,
        about: "connections a second that stay half open, five seconds in a row",
        valid: RATE,
        live: true,
        set: |config, given| {
            put(&mut config.security.thresholds.syn_flood, given.number(2..=1_000_000).map(|n| n as u32))
        },
        get: |config| config.security.thresholds.syn_flood.to_string(),
    },
    threshold!("security.thresholds.brute_force", brute_force, "short dialogues with a login"),
];
