//! Keys about what is watched and how long flows are kept.

use std::time::Duration;

use anyhow::bail;

use super::super::Selection;
use super::super::value::Given;
use super::{A_DURATION, A_SECOND, Key, SWITCH, put, span};

pub(super) static KEYS: &[Key] = &[
    Key {
        path: "capture.interfaces",
        short: None,
        about: "interfaces to watch; a leading ! excludes one; without any: automatic",
        valid: "names and globs: eth0, veth*, !docker0",
        live: true,
        set: |config, given| {
            // A template without a value yields an empty text.
            let patterns = given.unless("").map(Given::list).unwrap_or_default();
            config.interfaces = Selection::new(&patterns)?;
            Ok(())
        },
        get: |config| Given::List(config.interfaces.patterns().to_vec()).to_string(),
    },
    Key {
        path: "capture.sampling_rate",
        short: Some("NETMON_SAMPLING_RATE"),
        about: "share of flows that are tracked, each of them completely",
        valid: "a number above 0 and at most 1",
        live: true,
        set: |config, given| put(&mut config.sampling_rate, given.share()),
        get: |config| config.sampling_rate.to_string(),
    },
    Key {
        path: "capture.decapsulation",
        short: None,
        about: "packets in tunnels (VXLAN, Geneve, GRE, IPIP, SIT) are flows of their own",
        valid: SWITCH,
        live: true,
        set: |config, given| put(&mut config.features.decapsulation, given.switch()),
        get: |config| config.features.decapsulation.to_string(),
    },
    Key {
        path: "capture.nat",
        short: None,
        about: "join the two halves of connections that NAT translates, as reported by the kernel's connection tracking",
        valid: SWITCH,
        live: false,
        set: |config, given| put(&mut config.nat, given.switch()),
        get: |config| config.nat.to_string(),
    },
    Key {
        path: "capture.pod_namespaces",
        short: None,
        about: "watch pods without a link on the host in their own network namespaces",
        valid: SWITCH,
        live: false,
        set: |config, given| put(&mut config.pod_namespaces, given.switch()),
        get: |config| config.pod_namespaces.to_string(),
    },
    Key {
        path: "capture.force_clsact",
        short: Some("NETMON_FORCE_CLSACT"),
        about: "attach with clsact even if the kernel has TCX",
        valid: SWITCH,
        live: false,
        set: |config, given| put(&mut config.clsact, given.switch()),
        get: |config| config.clsact.to_string(),
    },
    Key {
        path: "flow.max_flows",
        short: None,
        about: "maximum number of flows in the table; embryonic and idle flows are evicted first",
        valid: "a whole number from 1 to 100000000",
        live: true,
        set: |config, given| put(&mut config.max_flows, given.number(1..=100_000_000)),
        get: |config| config.max_flows.to_string(),
    },
    Key {
        path: "flow.flow_timeout",
        short: None,
        about: "a flow without packets for this long is over",
        valid: A_DURATION,
        live: true,
        set: |config, given| put(&mut config.flow_timeout, given.duration(A_SECOND)),
        get: |config| span(config.flow_timeout),
    },
    Key {
        path: "flow.max_age",
        short: None,
        about: "a flow older than this is closed, and its next packet starts a new one; 0s: no limit",
        valid: "0s, or a duration such as 300s, 5m, 1h, at least 1s",
        live: true,
        set: |config, given| {
            let age = given.duration(Duration::ZERO)?;
            if age > Duration::ZERO && age < A_SECOND {
                bail!("too short");
            }
            config.max_age = (!age.is_zero()).then_some(age);
            Ok(())
        },
        get: |config| span(config.max_age.unwrap_or_default()),
    },
    Key {
        path: "flow.connect_timeout",
        short: None,
        about: "a SYN without an answer for this long has failed",
        valid: A_DURATION,
        live: true,
        set: |config, given| put(&mut config.connect_timeout, given.duration(A_SECOND)),
        get: |config| span(config.connect_timeout),
    },
];
