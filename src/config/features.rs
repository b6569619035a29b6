//! What is looked for in connections besides their packets: how long things take, and what they speak. Told by environment.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::bpf::{App, TimestampSource};

/// As it was given, unchecked: the errors of what is checked here name the variable.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct FeatureArgs {
    /// Measure latency
    #[arg(long, hide = true, env = "NETMON_FEATURES_LATENCY_TRACKING")]
    latency_tracking: Option<String>,

    /// The same by its place in the file
    #[arg(long, hide = true, env = "NETMON_FEATURES_LATENCY_TRACKING_ENABLED")]
    latency_tracking_enabled: Option<String>,

    /// Bounds of the latency histograms in milliseconds
    #[arg(long, hide = true, env = "NETMON_FEATURES_LATENCY_TRACKING_HISTOGRAM_BUCKETS")]
    latency_tracking_histogram_buckets: Option<String>,

    /// How often round trips are measured
    #[arg(long, hide = true, env = "NETMON_LATENCY_PRECISION")]
    latency_precision: Option<String>,

    /// Where precise times come from
    #[arg(long, hide = true, env = "NETMON_TIMESTAMP_SOURCE")]
    timestamp_source: Option<String>,

    /// Look into tunnels
    #[arg(long, hide = true, env = "NETMON_CAPTURE_DECAPSULATION")]
    decapsulation: Option<String>,

    /// Tell application protocols
    #[arg(long, hide = true, env = "NETMON_FEATURES_PROTOCOL_DETECTION")]
    protocol_detection: Option<String>,

    /// The same by its place in the file
    #[arg(long, hide = true, env = "NETMON_FEATURES_PROTOCOL_DETECTION_ENABLED")]
    protocol_detection_enabled: Option<String>,

    /// Which of them
    #[arg(long, hide = true, env = "NETMON_FEATURES_PROTOCOL_DETECTION_PROTOCOLS")]
    protocol_detection_protocols: Option<String>,
}

/// What is looked for in connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// How round trips are measured; `None`: no time is measured.
    pub latency: Option<Precision>,
    /// Bounds of the latency histograms.
    pub buckets: Buckets,
    /// Where precise times come from.
    pub timestamps: TimestampSource,
    /// Application protocols to look for.
    pub apps: Vec<App>,
    /// Packets in tunnels are flows of their own.
    pub decapsulation: bool,
}

impl Default for Features {
    fn default() -> Features {
        Features {
            latency: Some(Precision::Normal),
            buckets: Buckets::default(),
            timestamps: TimestampSource::Kernel,
            apps: App::all(),
            decapsulation: true,
        }
    }
}

/// How often the round trips of a connection are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// About once a second in each direction.
    #[default]
    Normal,
    /// A segment is measured as soon as the last one that was is answered.
    High,
}

/// Upper bounds of a latency histogram's buckets in nanoseconds, ascending; one more holds what is above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets(Vec<u64>);

/// More would make a histogram dearer than all else that is known of a pair.
const BUCKETS_MOST: usize = 64;

impl Default for Buckets {
    /// 0.1 ms to 1 s.
    fn default() -> Buckets {
        Buckets([100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000].map(|us| us * 1000).to_vec())
    }
}

impl Buckets {
    /// From milliseconds: `0.1,0.5,1`.
    pub fn parse(text: &str) -> Result<Buckets> {
        let bounds = text.split(',').map(bound).collect::<Result<Vec<u64>>>()?;
        ensure!(bounds.is_sorted_by(|a, b| a < b), "each must be greater than the one before");
        ensure!(bounds.len() <= BUCKETS_MOST, "{} of them, at most {BUCKETS_MOST} are possible", bounds.len());
        Ok(Buckets(bounds))
    }

    /// In nanoseconds.
    pub fn bounds_ns(&self) -> &[u64] {
        &self.0
    }
}

fn bound(text: &str) -> Result<u64> {
    match text.trim().parse::<f64>() {
        // From a nanosecond to an hour.
        Ok(ms) if (0.000_001..=3_600_000.0).contains(&ms) => Ok((ms * 1e6).round() as u64),
        _ => bail!("{:?} is no number of milliseconds from 0.000001 to 3600000", text.trim()),
    }
}

impl FeatureArgs {
    /// Checked; what is not given is as by default.
    pub(super) fn check(&self) -> Result<Features> {
        let default = Features::default();
        let latency = switch(
            ("NETMON_FEATURES_LATENCY_TRACKING", &self.latency_tracking),
            ("NETMON_FEATURES_LATENCY_TRACKING_ENABLED", &self.latency_tracking_enabled),
        )?;
        let precision = parse("NETMON_LATENCY_PRECISION", &self.latency_precision, |text| match text {
            "normal" => Ok(Precision::Normal),
            "high" => Ok(Precision::High),
            _ => bail!("use \"normal\" or \"high\""),
        })?;
        let buckets = parse(
            "NETMON_FEATURES_LATENCY_TRACKING_HISTOGRAM_BUCKETS",
            &self.latency_tracking_histogram_buckets,
            |text| Buckets::parse(text).context("use ascending milliseconds such as 0.1,0.5,1,5"),
        )?;
        let timestamps = parse("NETMON_TIMESTAMP_SOURCE", &self.timestamp_source, |text| match text {
            "kernel" => Ok(TimestampSource::Kernel),
            "hardware" => Ok(TimestampSource::Hardware),
            _ => bail!("use \"kernel\" or \"hardware\""),
        })?;
        let decapsulation = parse("NETMON_CAPTURE_DECAPSULATION", &self.decapsulation, on_or_off)?;
        let detection = switch(
            ("NETMON_FEATURES_PROTOCOL_DETECTION", &self.protocol_detection),
            ("NETMON_FEATURES_PROTOCOL_DETECTION_ENABLED", &self.protocol_detection_enabled),
        )?;
        let apps =
            parse("NETMON_FEATURES_PROTOCOL_DETECTION_PROTOCOLS", &self.protocol_detection_protocols, protocols)?;
        Ok(Features {
            latency: latency.then_some(precision.unwrap_or_default()),
            buckets: buckets.unwrap_or(default.buckets),
            timestamps: timestamps.unwrap_or(default.timestamps),
            decapsulation: decapsulation.unwrap_or(default.decapsulation),
            apps: if detection { apps.unwrap_or(default.apps) } else { Vec::new() },
        })
    }
}

/// `None` for what is not given. Nor is what is empty: a manifest may have a variable without a value.
fn parse<T>(variable: &str, value: &Option<String>, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
    let text = value.as_deref().unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).with_context(|| format!("{variable}={text}"))
}

fn on_or_off(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => bail!("use \"true\" or \"false\""),
    }
}

/// On by default; known by two names.
fn switch(short: (&str, &Option<String>), long: (&str, &Option<String>)) -> Result<bool> {
    let value = |(variable, value)| parse(variable, value, on_or_off);
    match (value(short)?, value(long)?) {
        (Some(one), Some(other)) if one != other => bail!("{} and {} contradict each other: set one", short.0, long.0),
        (one, other) => Ok(one.or(other).unwrap_or(true)),
    }
}

fn protocols(text: &str) -> Result<Vec<App>> {
    let mut apps = Vec::new();
    for name in text.split(',').map(str::trim) {
        let valid = || App::all().into_iter().map(App::name).collect::<Vec<_>>().join(", ");
        let app = App::named(name).with_context(|| format!("there is no protocol {name:?}; valid are {}", valid()))?;
        if !apps.contains(&app) {
            apps.push(app);
        }
    }
    Ok(apps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare() {
        let features = FeatureArgs::default().check().unwrap();
        assert_eq!(features, Features::default());
        assert_eq!(features.buckets, Buckets::parse("0.1,0.5,1,5,10,50,100,500,1000").unwrap());
        assert_eq!(features.apps.len(), App::all().len());
    }

    #[test]
    fn values_arrive() {
        let some = |text: &str| Some(text.to_owned());
        let features = FeatureArgs {
            latency_tracking_histogram_buckets: some("0.25, 3,1e3"),
            latency_precision: some("high"),
            timestamp_source: some("hardware"),
            protocol_detection: some(""),
            protocol_detection_protocols: some("http, redis,http"),
            ..FeatureArgs::default()
        }
        .check()
        .unwrap();
        assert_eq!(features.latency, Some(Precision::High));
        assert_eq!(features.buckets.bounds_ns(), [250_000, 3_000_000, 1_000_000_000]);
        assert_eq!(features.timestamps, TimestampSource::Hardware);
        assert_eq!(features.apps, [App::Http, App::Redis]);
        let off = FeatureArgs {
            latency_tracking_enabled: some("off"),
            latency_precision: some("high"),
            protocol_detection: some("False"),
            ..FeatureArgs::default()
        };
        let features = off.check().unwrap();
        assert_eq!((features.latency, features.apps.len()), (None, 0));
        assert!(features.decapsulation);
        let off = FeatureArgs { decapsulation: some("no"), ..FeatureArgs::default() };
        assert!(!off.check().unwrap().decapsulation);
    }

    #[test]
    fn errors_name_the_variable_the_value_and_what_is_valid() {
        let some = |text: &str| Some(text.to_owned());
        let bare = FeatureArgs::default;
        for (args, parts) in [
            (
                FeatureArgs { latency_tracking_histogram_buckets: some("1,5,2"), ..bare() },
                ["HISTOGRAM_BUCKETS=1,5,2", "ascending milliseconds", "greater than the one before"],
            ),
            (
                FeatureArgs { latency_tracking_histogram_buckets: some("0,5"), ..bare() },
                ["HISTOGRAM_BUCKETS=0,5", "ascending milliseconds", "\"0\" is no number"],
            ),
            (
                FeatureArgs { protocol_detection_protocols: some("http,gopher"), ..bare() },
                ["DETECTION_PROTOCOLS=http,gopher", "\"gopher\"", "valid are http, http2, grpc"],
            ),
            (
                FeatureArgs { latency_precision: some("low"), ..bare() },
                ["NETMON_LATENCY_PRECISION=low", "normal", "high"],
            ),
            (
                FeatureArgs { timestamp_source: some("ptp"), ..bare() },
                ["NETMON_TIMESTAMP_SOURCE=ptp", "kernel", "hardware"],
            ),
            (
                FeatureArgs { decapsulation: some("vxlan"), ..bare() },
                ["NETMON_CAPTURE_DECAPSULATION=vxlan", "true", "false"],
            ),
            (FeatureArgs { latency_tracking: some("maybe"), ..bare() }, ["LATENCY_TRACKING=maybe", "true", "false"]),
            (
                FeatureArgs { protocol_detection: some("0"), protocol_detection_enabled: some("1"), ..bare() },
                ["DETECTION and", "DETECTION_ENABLED", "contradict"],
            ),
        ] {
            let error = format!("{:#}", args.check().unwrap_err());
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        for bad in ["", "1,,2", "nan", "inf", "-1", "1,1", "4000000"] {
            assert!(Buckets::parse(bad).is_err(), "{bad}");
        }
        assert!(Buckets::parse(&(1..=65).map(|n| n.to_string()).collect::<Vec<_>>().join(",")).is_err());
    }
}
