//! Keys about how the agent runs.

use anyhow::{Context, Result, bail, ensure};

use super::super::value::Given;
use super::super::{DEFAULT_DEBUG_SERVER, LogFormat};
use super::{Key, SWITCH, address, put};
use crate::bpf::numbers::MOST_RINGS;

const _: () = assert!(MOST_RINGS == 64, "as the key's text says");

pub(super) static KEYS: &[Key] = &[
    Key {
        path: "performance.workers",
        short: None,
        about: "threads that read records from the kernel, each with a ring and a part of the flow table",
        valid: "a whole number from 1 to 64",
        live: false,
        set: |config, given| put(&mut config.workers, given.number(1..=MOST_RINGS as u64)),
        get: |config| config.workers.to_string(),
    },
    Key {
        path: "performance.buffer_size",
        short: None,
        about: "records that a ring holds, rounded up to a size that the kernel allows",
        valid: "a whole number from 1 to 10000000",
        live: false,
        set: |config, given| put(&mut config.buffer_size, given.number(1..=10_000_000)),
        get: |config| config.buffer_size.to_string(),
    },
    Key {
        path: "performance.batch_size",
        short: Some("NETMON_BATCH_SIZE"),
        about: "records that must be waiting before a worker is woken",
        valid: "a whole number from 1 to 1000000",
        live: true,
        set: |config, given| put(&mut config.batch_size, given.number(1..=1_000_000)),
        get: |config| config.batch_size.to_string(),
    },
    Key {
        path: "resources.memory_limit",
        short: None,
        about: "resident memory of the agent; before it is reached, embryonic and idle flows are evicted",
        valid: "a size such as 512Mi or 1Gi, at least 32Mi; or none",
        live: true,
        set: |config, given| put(&mut config.memory_limit, given.unless("none").map(memory).transpose()),
        get: |config| config.memory_limit.map_or("none".to_owned(), |bytes| bytes.to_string()),
    },
    Key {
        path: "resources.cpu_limit",
        short: None,
        about: "CPU time of the agent and its BPF programs; above it, sweeps and scrapes slow down, and finally flows are sampled",
        valid: "a number of CPUs such as 2, 0.5 or 500m; or none",
        live: true,
        set: |config, given| put(&mut config.cpu_limit_milli, given.unless("none").map(Given::milli_cpus).transpose()),
        get: |config| config.cpu_limit_milli.map_or("none".to_owned(), |milli| format!("{milli}m")),
    },
    Key {
        path: "resources.maps.flow_map_size",
        short: None,
        about: "flow directions that the kernel's caches hold, all CPUs together; auto: the fastest size",
        valid: "a whole number from 256 to 100000000, or auto",
        live: false,
        set: |config, given| {
            let size = given.unless("auto").map(|given| given.number(256..=100_000_000));
            put(&mut config.flow_map_size, size.transpose())
        },
        get: |config| config.flow_map_size.map_or("auto".to_owned(), |size| size.to_string()),
    },
    Key {
        path: "resources.maps.event_buffer_size",
        short: None,
        about: "maximum number of records in all rings together; it limits performance.buffer_size",
        valid: "a whole number from 64 to 100000000, or none",
        live: false,
        set: |config, given| {
            let size = given.unless("none").map(|given| given.number(64..=100_000_000));
            put(&mut config.event_buffer_size, size.transpose())
        },
        get: |config| config.event_buffer_size.map_or("none".to_owned(), |size| size.to_string()),
    },
    Key {
        path: "control.socket",
        short: Some("NETMON_SOCKET"),
        about: "path of the control socket, through which netmon-cli reaches the agent",
        valid: "a path, or none",
        live: false,
        set: |config, given| {
            config.socket = match given.text()? {
                "none" => None,
                path => Some(path.into()),
            };
            Ok(())
        },
        get: |config| config.socket.as_ref().map_or("none".to_owned(), |path| path.display().to_string()),
    },
    Key {
        path: "log.level",
        short: None,
        about: "log level",
        valid: "error, warn, info, debug or trace",
        live: true,
        set: |config, given| {
            put(&mut config.log_level, given.text().and_then(|text| text.parse().context("no such level")))
        },
        get: |config| config.log_level.to_string().to_lowercase(),
    },
    Key {
        path: "log.format",
        short: None,
        about: "format of the log; json: one object on each line",
        valid: "text or json",
        live: false,
        set: |config, given| {
            config.log_format = match given.text()? {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => bail!("unknown"),
            };
            Ok(())
        },
        get: |config| if config.log_format == LogFormat::Json { "json" } else { "text" }.to_owned(),
    },
    Key {
        path: "debug",
        short: None,
        about: "log at least at debug level, and start the debug server on 127.0.0.1:6060 (after a restart)",
        valid: SWITCH,
        live: true,
        set: |config, given| {
            if given.switch()? {
                config.log_level = config.log_level.max(log::LevelFilter::Debug);
                config.debug_server = Some(DEFAULT_DEBUG_SERVER.to_owned());
            }
            Ok(())
        },
        get: |_| false.to_string(),
    },
    Key {
        path: "debug_server",
        short: None,
        about: "serve /debug/pprof/, /debug/flows and /debug/config on this address, read-only; \":6060\" is port 6060 on all addresses",
        valid: "an address and a port: 127.0.0.1:6060, :6060; or none",
        live: false,
        set: |config, given| {
            config.debug_server = match given.text()? {
                "none" => None,
                text => Some(address(text)?),
            };
            Ok(())
        },
        get: |config| config.debug_server.clone().unwrap_or_else(|| "none".to_owned()),
    },
    Key {
        path: "node_name",
        short: Some("NODE_NAME"),
        about: "name of this node in labels; default: the host name",
        valid: "a name of at most 253 bytes",
        live: false,
        set: |config, given| {
            let name = given.text()?;
            ensure!((1..=253).contains(&name.len()), "{} bytes", name.len());
            ensure!(!name.contains(char::is_control), "has control characters");
            config.node_name = name.to_owned();
            Ok(())
        },
        get: |config| config.node_name.clone(),
    },
];

fn memory(given: &Given) -> Result<u64> {
    let bytes = given.bytes()?;
    ensure!(bytes >= 32 << 20, "too little");
    Ok(bytes)
}
