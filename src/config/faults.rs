//! What is wrong with a configuration: all of it at once, but no more than can be read.

// What others wrote: no place in it is known to be there.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::fmt;

use anyhow::{Result, bail};

/// So many faults are told; others are counted.
const TOLD: usize = 64;
/// Characters that are told of what somebody gave.
const SHOWN: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Faults {
    told: Vec<String>,
    more: usize,
}

impl Faults {
    /// One more. It is put into words only if it is told.
    pub(super) fn add(&mut self, fault: impl FnOnce() -> String) {
        if self.told.len() < TOLD {
            self.told.push(fault());
        } else {
            self.more += 1;
        }
    }

    /// An error if there are any.
    pub(super) fn check(mut self) -> Result<()> {
        if self.more > 0 {
            self.told.push(format!("and {} more", self.more));
        }
        if !self.told.is_empty() {
            bail!(self.told.join("\n"));
        }
        Ok(())
    }
}

/// What somebody gave, as it can stand in a line: its begin, and none of what a terminal obeys.
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
        (0..TOLD).for_each(|number| faults.add(|| format!("fault {number}")));
        faults.add(|| panic!("nobody reads it"));
        faults.add(|| panic!("nobody reads it"));
        let text = faults.check().unwrap_err().to_string();
        assert!(text.starts_with("fault 0\nfault 1\n") && text.ends_with("fault 63\nand 2 more"), "{text}");
        assert!(Faults::default().check().is_ok());
    }

    #[test]
    fn what_is_shown_is_a_line() {
        assert_eq!(shown("a\n\x1b[31mb\u{9b}é").to_string(), "a\\n\\u{1b}[31mb\\u{9b}é");
        assert_eq!(shown(&"x".repeat(1 << 20)).to_string().chars().count(), SHOWN + 1);
    }
}
