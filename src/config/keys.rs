//! Every configuration key: its names, its meaning, its valid values, and whether a running agent accepts a new value.

mod cluster;
mod export;
mod features;
mod running;
mod security;
mod traffic;

use std::time::Duration;

use anyhow::{Context, Result};

use super::Config;
use super::faults::shown;
use super::value::Given;
use crate::bpf::App;

const SWITCH: &str = "true or false";
const A_DURATION: &str = "a duration such as 300s, 5m, 1h, at least 1s";
const A_SECOND: Duration = Duration::from_secs(1);

/// A configuration key.
pub struct Key {
    /// Its path in the file, joined by dots.
    pub path: &'static str,
    /// A second environment variable, besides the one derived from `path`.
    pub short: Option<&'static str>,
    /// Its meaning, in one line.
    pub about: &'static str,
    /// The valid values, in words.
    pub valid: &'static str,
    /// True if a running agent accepts a new value.
    pub live: bool,
    pub(super) set: fn(&mut Config, &Given) -> Result<()>,
    pub(super) get: fn(&Config) -> String,
}

impl Key {
    /// All keys, in the order of the file.
    pub fn all() -> impl Iterator<Item = &'static Key> + Clone {
        // A key that switches something off comes after the keys that configure it.
        [traffic::KEYS, export::KEYS, features::KEYS, security::KEYS, cluster::KEYS, running::KEYS]
            .into_iter()
            .flatten()
    }

    /// True if its value in the file is a mapping whose pairs become list items `name=value`.
    pub(super) fn is_mapping(path: &str) -> bool {
        path == cluster::NETWORKS
    }

    /// The key with this path, if there is one.
    pub fn named(path: &str) -> Option<&'static Key> {
        Key::all().find(|key| key.path == path)
    }

    /// Its value in `config`.
    pub fn shown(&self, config: &Config) -> String {
        (self.get)(config)
    }

    /// Keys whose values differ between `running` and `wanted` and take effect only after a restart.
    pub fn pending(running: &Config, wanted: &Config) -> impl Iterator<Item = &'static Key> {
        let differs = |key: &&Key| !key.live && key.shown(running) != key.shown(wanted);
        Key::all().filter(differs)
    }

    /// Its default value.
    pub fn default(&self) -> String {
        (self.get)(&Config::default())
    }

    /// The environment variable derived from its path.
    pub fn variable(&self) -> String {
        format!("NETMON_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// True if the path is a section that contains keys.
    pub(super) fn is_section(path: &str) -> bool {
        !Key::within(path).is_empty()
    }

    /// The keys of a section, without its prefix.
    fn within(section: &str) -> Vec<&'static str> {
        let rest = |key: &Key| key.path.strip_prefix(section)?.strip_prefix('.');
        Key::all().filter_map(rest).collect()
    }

    /// The message that this key is not a section.
    pub(super) fn is_value(&self) -> String {
        format!("{} takes a value, not keys; valid: {}", self.path, self.valid)
    }

    /// The message that there is no such key, with what may have been meant.
    pub fn unknown(path: &str) -> String {
        let within = Key::within(path);
        if !within.is_empty() {
            return format!("{path} is a section, not a key; valid in {path} are {}", within.join(", "));
        }
        let is_above = |key: &&Key| path.strip_prefix(key.path).is_some_and(|rest| rest.starts_with('.'));
        if let Some(key) = Key::all().find(is_above) {
            return key.is_value();
        }
        let mut sections: Vec<&str> = Key::all().map(|key| key.path.split('.').next().unwrap_or("")).collect();
        sections.dedup();
        let section = path.rsplit_once('.').map_or("", |(section, _)| section);
        let there = Key::within(section);
        let instead = match nearest(path, Key::all().map(|key| key.path).chain(sections.iter().copied())) {
            Some(near) => format!("did you mean {near}?"),
            None if there.is_empty() => format!("valid are {}", sections.join(", ")),
            None => format!("valid in {section} are {}", there.join(", ")),
        };
        format!("unknown key {}: {instead}", shown(path))
    }
}

/// Longer than any known name, in bytes.
const LONGEST_NAME: usize = 100;

/// The one of `known` that a misspelt `name` probably means.
pub(super) fn nearest<S: AsRef<str>>(name: &str, known: impl Iterator<Item = S>) -> Option<String> {
    if name.len() > LONGEST_NAME {
        return None;
    }
    let ranked = known.map(|known| (strsim::damerau_levenshtein(name, known.as_ref()), known));
    let (distance, known) = ranked.min_by_key(|(distance, _)| *distance)?;
    (distance <= 3 && 2 * distance <= name.len()).then(|| known.as_ref().to_owned())
}

fn put<T>(place: &mut T, value: Result<T>) -> Result<()> {
    *place = value?;
    Ok(())
}

fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn address(text: &str) -> Result<String> {
    let port = text.rsplit_once(':').context("without a port")?.1;
    port.parse::<u16>().context("without a valid port")?;
    Ok(text.to_owned())
}

fn protocol(name: &str) -> Result<App> {
    App::named(name).with_context(|| format!("there is no protocol {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_protocols_are_listed_as_valid() {
        let valid = Key::named("features.protocol_detection.protocols").unwrap().valid;
        let names: Vec<&str> = App::all().into_iter().map(App::name).collect();
        assert_eq!(valid, format!("names of: {}", names.join(" ")));
    }

    #[test]
    fn names_are_unique_and_lower_case() {
        let mut names: Vec<String> = Key::all().map(Key::variable).collect();
        names.extend(Key::all().filter_map(|key| key.short).map(str::to_owned));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(Key::all().all(|key| key.path.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')));
    }

    /// The value that a key shows is a valid value of the key.
    #[test]
    fn defaults_are_valid() {
        let bare = Config::default();
        for key in Key::all() {
            let shown = (key.get)(&bare);
            let mut config = Config::default();
            let given = Given::Text(shown.clone());
            (key.set)(&mut config, &given).unwrap_or_else(|error| panic!("{}={shown}: {error:#}", key.path));
            assert_eq!(format!("{config:?}"), format!("{bare:?}"), "{}={shown}", key.path);
        }
    }
}
