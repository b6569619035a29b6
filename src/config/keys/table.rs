//! The keys, in the order of the file.

use std::time::Duration;

use anyhow::{Context, bail};

use super::super::value::Given;
use super::super::{Buckets, LogFormat, Precision, Selection};
use super::{Key, address, protocol, put, span};
use crate::bpf::TimestampSource;

const SWITCH: &str = "true or false";
const A_DURATION: &str = "a duration such as 300s, 5m, 1h, at least 1s";
const A_SECOND: Duration = Duration::from_secs(1);

/// A key that switches something off comes after those that say how it is done.
pub(super) static KEYS: &[Key] = &[
    Key {
        path: "capture.interfaces",
        short: None,
        about: "interfaces to watch; a leading ! leaves one out; none: automatic",
        valid: "names and globs: eth0, veth*, !docker0",
        live: true,
        set: |config, given| {
            let patterns: Vec<String> = given.list().into_iter().filter(|pattern| !pattern.is_empty()).collect();
            config.interfaces = Selection::new(&patterns)?;
            Ok(())
        },
        get: |config| Given::List(config.interfaces.patterns().to_vec()).to_string(),
    },
    Key {
        path: "capture.sampling_rate",
        short: Some("NETMON_SAMPLING_RATE"),
        about: "share of flows that is tracked, whole flows",
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
        about: "join what NAT has under two addresses, as the kernel's connection tracking tells",
        valid: SWITCH,
        live: false,
        set: |config, given| put(&mut config.nat, given.switch()),
        get: |config| config.nat.to_string(),
    },
    Key {
        path: "capture.pod_namespaces",
        short: None,
        about: "watch pods in their own network namespaces where they have no link on the host",
        valid: SWITCH,
        live: false,
        set: |config, given| put(&mut config.pod_namespaces, given.switch()),
        get: |config| config.pod_namespaces.to_string(),
    },
    Key {
        path: "capture.force_clsact",
        short: Some("NETMON_FORCE_CLSACT"),
        about: "attach by clsact even where the kernel has TCX",
        valid: SWITCH,
        live: false,
        set: |config, given| put(&mut config.clsact, given.switch()),
        get: |config| config.clsact.to_string(),
    },
    Key {
        path: "flow.max_flows",
        short: None,
        about: "flows in the table at most; embryonic and idle ones make room",
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
        about: "a flow older than this is closed, and what follows is a new one; 0s: none is",
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
    Key {
        path: "export.prometheus.enabled",
        short: None,
        about: "serve /metrics, /healthz and /readyz",
        valid: SWITCH,
        live: false,
        set: |config, given| put(&mut config.metrics_enabled, given.switch()),
        get: |config| config.metrics_enabled.to_string(),
    },
    Key {
        path: "export.prometheus.port",
        short: None,
        about: "the port of all addresses where they are served; export.prometheus.address goes before it",
        valid: "a port from 1 to 65535",
        live: false,
        set: |config, given| put(&mut config.metrics_addr, given.number(1..=65_535).map(|port| format!(":{port}"))),
        get: |config| config.metrics_addr.rsplit(':').next().unwrap_or_default().to_owned(),
    },
    Key {
        path: "export.prometheus.address",
        short: None,
        about: "where they are served: \":9090\" is port 9090 on all addresses",
        valid: "an address and a port: :9090, 127.0.0.1:9090, [::1]:9090",
        live: false,
        set: |config, given| put(&mut config.metrics_addr, given.text().and_then(address)),
        get: |config| config.metrics_addr.clone(),
    },
    Key {
        path: "export.prometheus.series_limit",
        short: None,
        about: "series of all metrics whose labels come from packets; what exceeds it goes to one series \"other\" a metric",
        valid: "a whole number from 100 to 10000000",
        live: false,
        set: |config, given| put(&mut config.series_limit, given.number(100..=10_000_000)),
        get: |config| config.series_limit.to_string(),
    },
    Key {
        path: "performance.workers",
        short: None,
        about: "threads that take records from the kernel, each with a ring and a part of the flow table",
        valid: "a whole number from 1 to 64",
        live: false,
        set: |config, given| put(&mut config.workers, given.number(1..=64)),
        get: |config| config.workers.to_string(),
    },
    Key {
        path: "performance.buffer_size",
        short: None,
        about: "records a ring holds, rounded up to what the kernel allows",
        valid: "a whole number from 1 to 10000000",
        live: false,
        set: |config, given| put(&mut config.buffer_size, given.number(1..=10_000_000)),
        get: |config| config.buffer_size.to_string(),
    },
    Key {
        path: "performance.batch_size",
        short: Some("NETMON_BATCH_SIZE"),
        about: "records a wake-up waits for",
        valid: "a whole number from 1 to 1000000",
        live: true,
        set: |config, given| put(&mut config.batch_size, given.number(1..=1_000_000)),
        get: |config| config.batch_size.to_string(),
    },
    Key {
        path: "features.protocol_detection.protocols",
        short: None,
        about: "application protocols to tell",
        valid: "names of: http http2 grpc tls dns mysql postgres redis kafka mongodb memcached amqp nats mqtt cassandra ssh smtp quic",
        live: true,
        set: |config, given| put(&mut config.features.apps, given.list().iter().map(|name| protocol(name)).collect()),
        get: |config| Given::List(config.features.apps.iter().map(|app| app.name().to_owned()).collect()).to_string(),
    },
    Key {
        path: "features.protocol_detection.enabled",
        short: Some("NETMON_FEATURES_PROTOCOL_DETECTION"),
        about: "tell application protocols by the first bytes of each direction",
        valid: SWITCH,
        live: true,
        set: |config, given| {
            if !given.switch()? {
                config.features.apps.clear();
            }
            Ok(())
        },
        get: |config| (!config.features.apps.is_empty()).to_string(),
    },
    Key {
        path: "features.latency_tracking.histogram_buckets",
        short: None,
        about: "upper bounds of the latency histograms in milliseconds",
        valid: "at most 64 ascending numbers from 0.000001 to 3600000: 0.1, 0.5, 1, 5",
        live: true,
        set: |config, given| put(&mut config.features.buckets, Buckets::new(&given.list())),
        get: |config| Given::List(config.features.buckets.milliseconds()).to_string(),
    },
    Key {
        path: "features.latency_tracking.precision",
        short: Some("NETMON_LATENCY_PRECISION"),
        about: "high: a round trip is measured as soon as the last one was; normal: about once a second in each direction",
        valid: "normal or high",
        live: true,
        set: |config, given| {
            config.features.latency = Some(match given.text()? {
                "normal" => Precision::Normal,
                "high" => Precision::High,
                _ => bail!("unknown"),
            });
            Ok(())
        },
        get: |config| if config.features.latency == Some(Precision::High) { "high" } else { "normal" }.to_owned(),
    },
    Key {
        path: "features.latency_tracking.timestamp_source",
        short: Some("NETMON_TIMESTAMP_SOURCE"),
        about: "where precise times come from; hardware: the NIC's stamp of packets that carry one",
        valid: "kernel or hardware",
        live: false,
        set: |config, given| {
            config.features.timestamps = match given.text()? {
                "kernel" => TimestampSource::Kernel,
                "hardware" => TimestampSource::Hardware,
                _ => bail!("unknown"),
            };
            Ok(())
        },
        get: |config| match config.features.timestamps {
            TimestampSource::Hardware => "hardware".to_owned(),
            TimestampSource::Kernel | TimestampSource::Capture => "kernel".to_owned(),
        },
    },
    Key {
        path: "features.latency_tracking.enabled",
        short: Some("NETMON_FEATURES_LATENCY_TRACKING"),
        about: "measure connect, round trip and response times",
        valid: SWITCH,
        live: true,
        set: |config, given| {
            if !given.switch()? {
                config.features.latency = None;
            }
            Ok(())
        },
        get: |config| config.features.latency.is_some().to_string(),
    },
    Key {
        path: "features.security_monitoring.enabled",
        short: None,
        about: "reserved: this version detects nothing of the kind, and says so in the log",
        valid: SWITCH,
        live: false,
        set: |config, given| put(&mut config.security_monitoring, given.switch()),
        get: |_| false.to_string(),
    },
    Key {
        path: "features.security_monitoring.detect_port_scans",
        short: None,
        about: "reserved",
        valid: SWITCH,
        live: false,
        set: |_, given| given.switch().map(drop),
        get: |_| false.to_string(),
    },
    Key {
        path: "features.security_monitoring.detect_suspicious_patterns",
        short: None,
        about: "reserved",
        valid: SWITCH,
        live: false,
        set: |_, given| given.switch().map(drop),
        get: |_| false.to_string(),
    },
    Key {
        path: "resources.memory_limit",
        short: None,
        about: "resident memory of the agent; before it is reached, embryonic and idle flows make room",
        valid: "a size such as 512Mi or 1Gi, at least 32Mi",
        live: true,
        set: |config, given| {
            let bytes = given.bytes()?;
            if bytes < 32 << 20 {
                bail!("too little");
            }
            config.memory_limit = Some(bytes);
            Ok(())
        },
        get: |config| config.memory_limit.map_or("none".to_owned(), |bytes| bytes.to_string()),
    },
    Key {
        path: "resources.cpu_limit",
        short: None,
        about: "CPU time of the agent and its programs; above it sweeps and scrapes slow down, at last flows are sampled",
        valid: "a number of CPUs such as 2, 0.5 or 500m",
        live: true,
        set: |config, given| put(&mut config.cpu_limit_milli, given.milli_cpus().map(Some)),
        get: |config| config.cpu_limit_milli.map_or("none".to_owned(), |milli| format!("{milli}m")),
    },
    Key {
        path: "resources.maps.flow_map_size",
        short: None,
        about: "flow directions that the kernel's caches hold, all CPUs together; default: what is fastest",
        valid: "a whole number from 256 to 100000000",
        live: false,
        set: |config, given| put(&mut config.flow_map_size, given.number(256..=100_000_000).map(Some)),
        get: |config| config.flow_map_size.map_or("auto".to_owned(), |size| size.to_string()),
    },
    Key {
        path: "resources.maps.event_buffer_size",
        short: None,
        about: "records that all rings together hold at most: performance.buffer_size yields to it",
        valid: "a whole number from 64 to 100000000",
        live: false,
        set: |config, given| put(&mut config.event_buffer_size, given.number(64..=100_000_000).map(Some)),
        get: |config| config.event_buffer_size.map_or("none".to_owned(), |size| size.to_string()),
    },
    Key {
        path: "control.socket",
        short: Some("NETMON_SOCKET"),
        about: "the control socket, by which netmon-cli reaches the agent",
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
        about: "how much is logged",
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
        about: "text, or json: an object a line",
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
        about: "log at debug level at least",
        valid: SWITCH,
        live: true,
        set: |config, given| {
            if given.switch()? {
                config.log_level = config.log_level.max(log::LevelFilter::Debug);
            }
            Ok(())
        },
        get: |_| false.to_string(),
    },
    Key {
        path: "node_name",
        short: Some("NODE_NAME"),
        about: "name of this node, for labels; default: the host name",
        valid: "a name",
        live: false,
        set: |config, given| put(&mut config.node_name, given.text().map(str::to_owned)),
        get: |config| config.node_name.clone(),
    },
];
