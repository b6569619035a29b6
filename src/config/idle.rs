//! Values that were given but have no effect, because what they configure does not exist or is switched off by another
//! key.

use super::{Config, Key, Settings};
use crate::names::Enabled;

/// Keys or sections; when they have no effect; and the reason.
type Idle = (&'static [&'static str], fn(&Config) -> bool, &'static str);

const IDLE: [Idle; 5] = [
    (
        &["features.security_monitoring", "security"],
        |config| !config.security.enabled,
        "features.security_monitoring.enabled is false",
    ),
    (
        &["kubernetes.kubeconfig", "kubernetes.labels", "kubernetes.scope"],
        |config| config.kubernetes == Enabled::Off,
        "kubernetes.enabled is off",
    ),
    (
        &["export.prometheus.address", "export.prometheus.port", "export.prometheus.web_config"],
        |config| !config.metrics_enabled,
        "export.prometheus.enabled is false",
    ),
    (
        &["features.latency_tracking"],
        |config| config.features.latency.is_none(),
        "features.latency_tracking.enabled is false",
    ),
    (
        &["features.protocol_detection"],
        |config| config.features.apps.is_empty(),
        "features.protocol_detection.enabled is false, or no protocol is named",
    ),
];

impl Settings {
    /// The given values that have no effect, each with the reason.
    pub fn without_effect(&self) -> Vec<String> {
        let of = |key: &Key, path: &str| {
            key.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let describe = |key: &'static Key| {
            let value = self.given(key)?;
            // A feature that is off is meant to do nothing.
            let is_off = key.path.ends_with(".enabled") && value.switch().is_ok_and(|on| !on);
            if is_off || value.to_string() == key.default() {
                return None;
            }
            let idle = |(paths, when, _): &&Idle| paths.iter().any(|path| of(key, path)) && when(&self.config);
            let (_, _, why) = IDLE.iter().find(idle)?;
            Some(format!("{}={value}: {why}", key.path))
        };
        Key::all().filter_map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Given, Sources};
    use super::*;

    fn idle(pairs: &[(&'static str, &str)]) -> Vec<String> {
        let flag = |&(path, value): &(&'static str, &str)| (path, path.to_owned(), Given::Text(value.to_owned()));
        let sources = Sources { flags: pairs.iter().map(flag).collect(), ..Sources::default() };
        Settings::read(&sources).unwrap().without_effect()
    }

    #[test]
    fn values_without_effect_are_reported() {
        for (pairs, reason) in [
            (
                &[("features.security_monitoring.detect_port_scans", "off")][..],
                "features.security_monitoring.enabled is false",
            ),
            (&[("security.ignore", "10.0.0.0/8")], "features.security_monitoring.enabled is false"),
            (&[("kubernetes.scope", "node"), ("kubernetes.enabled", "off")], "kubernetes.enabled is off"),
            (
                &[("export.prometheus.enabled", "false"), ("export.prometheus.address", ":1")],
                "export.prometheus.enabled is false",
            ),
            (
                &[("features.latency_tracking.enabled", "no"), ("features.latency_tracking.precision", "high")],
                "features.latency_tracking.enabled is false",
            ),
            (
                &[("features.protocol_detection.enabled", "false"), ("features.protocol_detection.protocols", "dns")],
                "features.protocol_detection.enabled is false",
            ),
        ] {
            let lines = idle(pairs);
            assert!(lines.len() == 1 && lines[0].contains(reason), "{pairs:?}: {lines:?}");
        }
        for pairs in [
            &[("features.security_monitoring.enabled", "true"), ("security.ignore", "10.0.0.0/8")][..],
            &[("features.latency_tracking.enabled", "false")],
            &[("features.latency_tracking.precision", "high"), ("kubernetes.scope", "node")],
        ] {
            assert_eq!(idle(pairs), Vec::<String>::new(), "{pairs:?}");
        }
    }
}
