//! The layers of the configuration in ascending precedence: default, file, environment, command line, values set at run
//! time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::faults::{Faults, shown};
use super::file::{self, Entry, Value};
use super::value::Given;
use super::yaml::Position;
use super::{Config, Key};
use crate::regular_file;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No source gives it.
    Default,
    /// The configuration file, with the line in it.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// The command line.
    Flag(String),
    /// `netmon-cli config set`, since the agent started.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
            Origin::Set => f.write_str("netmon-cli config set"),
        }
    }
}

/// The sources of a configuration. They can be read again: the file may have changed.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Environment variables; unknown ones are ignored.
    pub environment: Vec<(String, String)>,
    /// Names of environment variables whose values are not UTF-8.
    pub unreadable: Vec<String>,
    /// Key paths, the flags that set them, and their values.
    pub flags: Vec<(&'static str, String, Given)>,
    /// Key paths and the values that they were set to since the agent started.
    pub set: BTreeMap<&'static str, Given>,
}

/// A configuration, and the origin of each of its values.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration itself.
    pub config: Config,
    chosen: BTreeMap<&'static str, (Given, Origin)>,
    hints: Vec<String>,
}

impl Settings {
    /// Reads and checks all sources.
    ///
    /// # Errors
    ///
    /// The error lists all faults, each with its place and the valid values.
    pub fn read(sources: &Sources) -> Result<Settings> {
        let mut settings = Settings::of(Config::default());
        let mut faults = Faults::default();
        if let Some(path) = &sources.file {
            settings.read_file(path, &mut faults);
        }
        settings.read_environment(sources, &mut faults);
        settings.read_flags(&sources.flags, &mut faults);
        for (path, given) in &sources.set {
            settings.choose(path, given.clone(), Origin::Set, path, &mut faults);
        }
        settings.checked(faults)
    }

    /// Reads and checks a configuration file with this text alone.
    ///
    /// # Errors
    ///
    /// As for [`Settings::read`].
    pub fn of_text(path: &Path, text: &str) -> Result<Settings> {
        let mut settings = Settings::of(Config::default());
        let mut faults = Faults::default();
        settings.take_file(path, text, &mut faults);
        settings.checked(faults)
    }

    fn checked(mut self, faults: Faults) -> Result<Settings> {
        faults.check()?;
        for key in Key::all() {
            if let Some((given, _)) = self.chosen.get(key.path) {
                (key.set)(&mut self.config, given)?;
            }
        }
        Ok(self)
    }

    fn read_file(&mut self, path: &Path, faults: &mut Faults) {
        match regular_file::read_text(path) {
            Ok(text) => self.take_file(path, &text, faults),
            Err(error) => faults.add(|| format!("{}: {error}", path.display())),
        }
    }

    fn take_file(&mut self, path: &Path, text: &str, faults: &mut Faults) {
        let place = |at: Position| format!("{}:{}:{}", path.display(), at.line, at.column);
        let entries = match file::read(text) {
            Ok(entries) => entries,
            Err((at, fault)) => return faults.add(|| format!("{}: {fault}", place(at))),
        };
        let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
        for Entry { path: name, value, key_at, at } in entries {
            let Some(key) = Key::named(&name) else {
                // All keys of a section may be commented out.
                if !(Key::is_section(&name) && matches!(value, Value::Absent | Value::Keys)) {
                    faults.add(|| format!("{}: {}", place(key_at), Key::unknown(&name)));
                }
                continue;
            };
            if let Some(line) = lines.insert(key.path, key_at.line) {
                faults.add(|| format!("{}: {} is given twice: also in line {line}", place(key_at), key.path));
                continue;
            }
            match value {
                Value::Absent => {}
                Value::Keys => faults.add(|| format!("{}: {}", place(at), key.is_value())),
                Value::Given(given) => {
                    let origin = Origin::File(path.to_owned(), key_at.line);
                    self.choose(key.path, given, origin, &format!("{}: {}", place(at), key.path), faults);
                }
            }
        }
    }

    fn read_environment(&mut self, sources: &Sources, faults: &mut Faults) {
        let mut unknown = Vec::new();
        let mut taken: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
        let key_of = |name: &str| Key::all().find(|key| key.short == Some(name) || key.variable() == name);
        for name in &sources.unreadable {
            if let Some(key) = key_of(name) {
                faults.add(|| format!("{name}: not UTF-8; valid: {}", key.valid));
            }
        }
        for (name, value) in &sources.environment {
            // A manifest may contain a variable with an empty value.
            if value.trim().is_empty() {
                continue;
            }
            let Some(key) = key_of(name) else {
                unknown.push(name);
                continue;
            };
            match taken.insert(key.path, (name, value)) {
                Some((other, had)) if had != value => {
                    faults.add(|| format!("{name} and {other} contradict each other: set one of them"));
                }
                _ => {}
            }
            let given = Given::Text(value.clone());
            self.choose(key.path, given, Origin::Environment(name.clone()), name, faults);
        }
        // This is no error: Kubernetes derives variables from the names of services.
        for name in unknown.into_iter().filter(|name| name.starts_with("NETMON_")) {
            let known = Key::all().flat_map(|key| [Some(key.variable()), key.short.map(str::to_owned)]).flatten();
            if let Some(near) = super::keys::nearest(name, known) {
                self.hints.push(format!("the environment variable {name} is not known: did you mean {near}?"));
            }
        }
    }

    fn read_flags(&mut self, flags: &[(&'static str, String, Given)], faults: &mut Faults) {
        for (i, (path, flag, given)) in flags.iter().enumerate() {
            if let Some((_, other, _)) = flags[..i].iter().find(|(of, _, had)| of == path && had != given) {
                faults.add(|| match other == flag {
                    true => format!("{flag} is given twice, with values that contradict each other"),
                    false => format!("{flag} and {other} contradict each other: give one of them"),
                });
            }
            self.choose(path, given.clone(), Origin::Flag(flag.clone()), flag, faults);
        }
    }

    fn choose(&mut self, path: &'static str, given: Given, origin: Origin, place: &str, faults: &mut Faults) {
        let Some(key) = Key::named(path) else { return };
        // Check it on a separate configuration: a value that a later layer overrides must be valid, too.
        match (key.set)(&mut Config::default(), &given) {
            Ok(()) => drop(self.chosen.insert(key.path, (given, origin))),
            Err(error) => faults.add(|| {
                let (given, why) = (given.to_string(), format!("{error:#}"));
                format!("{place}: \"{}\": {}; valid: {}", shown(&given), shown(&why), key.valid)
            }),
        }
    }

    /// Settings without any given value.
    pub fn of(config: Config) -> Settings {
        Settings { config, chosen: BTreeMap::new(), hints: Vec::new() }
    }

    /// Hints that are no errors, but worth a line in the log.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The value that was given for a key, if any.
    pub(super) fn given(&self, key: &Key) -> Option<&Given> {
        self.chosen.get(key.path).map(|(given, _)| given)
    }

    /// The value that was given for a key, else its default; and its origin.
    pub fn value(&self, key: &Key) -> (String, Origin) {
        match self.chosen.get(key.path) {
            Some((given, origin)) => (given.to_string(), origin.clone()),
            None => (key.default(), Origin::Default),
        }
    }
}

#[cfg(test)]
mod tests;
