//! Keys about what is measured and recognised in connections.

use anyhow::bail;

use super::super::value::Given;
use super::super::{Buckets, Precision};
use super::{Key, SWITCH, protocol, put};
use crate::bpf::TimestampSource;

pub(super) static KEYS: &[Key] = &[
    Key {
        path: "features.protocol_detection.protocols",
        short: None,
        about: "application protocols to recognise",
        valid: "names of: http http2 grpc tls dns mysql postgres redis kafka mongodb memcached amqp nats mqtt cassandra ssh smtp quic",
        live: true,
        set: |config, given| put(&mut config.features.apps, given.list().iter().map(|name| protocol(name)).collect()),
        get: |config| Given::List(config.features.apps.iter().map(|app| app.name().to_owned()).collect()).to_string(),
    },
    Key {
        path: "features.protocol_detection.enabled",
        short: Some("NETMON_FEATURES_PROTOCOL_DETECTION"),
        about: "recognise application protocols by the first bytes of each direction",
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
        about: "high: measure the next round trip as soon as the last one is complete; normal: about once a second in each direction",
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
        about: "source of precise times; hardware: the NIC's timestamp, for packets that carry one",
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
];
