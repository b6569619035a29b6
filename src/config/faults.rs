//! The faults of a configuration: all of them are reported at once, but no more than a person can read.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::fmt;

use anyhow::{Result, bail};

/// Faults that are reported in full; others are only counted.
const REPORTED: usize = 64;
/// Characters of a given value that are shown.
const SHOWN: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Faults {
    reported: Vec<String>,
    more: usize,
}

impl Faults {
    /// Adds a fault. Its text is made only if it will be reported.
    pub(super) fn add(&mut self, fault: impl FnOnce() -> String) {
        if self.reported.len() < REPORTED {
            self.reported.push(fault());
        } else {
            self.more += 1;
        }
    }

    /// Returns an error that lists the faults, if there are any.
    pub(super) fn check(mut self) -> Result<()> {
        if self.more > 0 {
            self.reported.push(format!("and {} more", self.more));
        }
        if !self.reported.is_empty() {
            bail!(self.reported.join("\n"));
        }
        Ok(())
    }
}

/// A given value, fit for one line of output: shortened, and without characters that control a terminal.
pub(super) fn shown(text: &str) -> impl fmt::Display {
    let mut line = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == SHOWN {
            line.push('…');
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_counted() {
        let mut faults = Faults::default();
        (0..REPORTED).for_each(|number| faults.add(|| format!("fault {number}")));
        faults.add(|| panic!("it is not reported"));
        faults.add(|| panic!("it is not reported"));
        let text = faults.check().unwrap_err().to_string();
        assert!(text.starts_with("fault 0\nfault 1\n") && text.ends_with("fault 63\nand 2 more"), "{text}");
        assert!(Faults::default().check().is_ok());
    }

    #[test]
    fn shown_text_is_one_line() {
        assert_eq!(shown("a\n\x1b[31mb\u{9b}é").to_string(), "a\\n\\u{1b}[31mb\\u{9b}é");
        assert_eq!(shown(&"x".repeat(1 << 20)).to_string().chars().count(), SHOWN + 1);
    }
}
