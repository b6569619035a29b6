//! Keys about the exported metrics.

use anyhow::bail;

use super::super::value::Given;
use super::super::{External, Label, Labels};
use super::{A_DURATION, A_SECOND, Key, SWITCH, address, put, span};

pub(super) static KEYS: &[Key] = &[
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
        about: "port for these pages, on all addresses; export.prometheus.address takes precedence",
        valid: "a port from 1 to 65535",
        live: false,
        set: |config, given| put(&mut config.metrics_addr, given.number(1..=65_535).map(|port| format!(":{port}"))),
        get: |config| config.metrics_addr.rsplit(':').next().unwrap_or_default().to_owned(),
    },
    Key {
        path: "export.prometheus.address",
        short: None,
        about: "address for these pages: \":9090\" is port 9090 on all addresses",
        valid: "an address and a port: :9090, 127.0.0.1:9090, [::1]:9090",
        live: false,
        set: |config, given| put(&mut config.metrics_addr, given.text().and_then(address)),
        get: |config| config.metrics_addr.clone(),
    },
    Key {
        path: "export.prometheus.web_config",
        short: None,
        about: "web configuration file of Prometheus' exporters: TLS and passwords for these pages; changes to the file take effect without a restart",
        valid: "a path, or none",
        live: false,
        set: |config, given| {
            config.web_config = match given.text()? {
                "none" => None,
                path => Some(path.into()),
            };
            Ok(())
        },
        get: |config| config.web_config.as_ref().map_or("none".to_owned(), |path| path.display().to_string()),
    },
    Key {
        path: "export.prometheus.series_limit",
        short: None,
        about: "maximum number of series of the metrics whose labels come from packets; the rest goes to one series \"other\" for each metric",
        valid: "a whole number from 100 to 10000000",
        live: false,
        set: |config, given| put(&mut config.series_limit, given.number(100..=10_000_000)),
        get: |config| config.series_limit.to_string(),
    },
    Key {
        path: "export.prometheus.labels",
        short: None,
        about: "labels that identify the ends of a flow; flows that differ only in other labels share a series",
        valid: "names of: src_ip dst_ip src_namespace dst_namespace src_workload dst_workload src_service dst_service \
                src_node dst_node src_zone dst_zone",
        live: true,
        set: |config, given| put(&mut config.labels, Labels::new(&given.list())),
        get: |config| Given::List(config.labels.names()).to_string(),
    },
    Key {
        path: "export.prometheus.flow_aggregation",
        short: Some("NETMON_FLOW_AGGREGATION"),
        about: "aggregate series by workload instead of address: without src_ip and dst_ip",
        valid: SWITCH,
        live: true,
        set: |config, given| {
            if given.switch()? {
                config.labels = config.labels.without(Label::SrcIp).without(Label::DstIp);
            }
            Ok(())
        },
        get: |config| (!config.labels.has(Label::SrcIp) && !config.labels.has(Label::DstIp)).to_string(),
    },
    Key {
        path: "export.prometheus.external",
        short: None,
        about: "how to show an address outside of the cluster: by its network's name (names.cidrs, else \"external\"), or as it is",
        valid: "auto (group if there is a cluster), group or address",
        live: true,
        set: |config, given| {
            config.external = match given.text()? {
                "auto" => External::Auto,
                "group" => External::Group,
                "address" => External::Address,
                _ => bail!("unknown"),
            };
            Ok(())
        },
        get: |config| config.external.name().to_owned(),
    },
    Key {
        path: "export.prometheus.series_idle",
        short: None,
        about: "series that counted nothing for this long are removed",
        valid: A_DURATION,
        live: true,
        set: |config, given| put(&mut config.series_idle, given.duration(A_SECOND)),
        get: |config| span(config.series_idle),
    },
];
