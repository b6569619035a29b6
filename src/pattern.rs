//! Globs for filters and for the selection of interfaces. Compiling one takes bounded time and memory, and whatever is
//! wrong with it is an error.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use globset::{Glob, GlobSet, GlobSetBuilder};

/// Maximum length of a glob in bytes; no name that is compared with one is longer.
const LONGEST: usize = 256;
/// Maximum depth of nested braces. Each becomes a group of a regular expression, whose nesting is limited.
const DEEPEST: usize = 8;
/// Maximum number of globs in a set.
const MOST: usize = 1000;

/// Compiles a glob, which matches whole texts.
///
/// # Errors
///
/// The text is not a valid glob, or exceeds the bounds.
pub fn one(text: &str) -> Result<GlobSet, String> {
    any(std::iter::once(text))
}

/// Compiles a set of globs, of which any may match.
///
/// # Errors
///
/// One of the texts is not a valid glob, or they exceed the bounds.
pub fn any<'a>(texts: impl Iterator<Item = &'a str>) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for (i, text) in texts.enumerate() {
        if i == MOST {
            return Err(format!("more than {MOST} globs"));
        }
        set.add(glob(text)?);
    }
    // The matcher of a single glob would panic in cases in which this returns an error.
    set.build().map_err(|error| error.kind().to_string())
}

/// Checks and parses a glob, without compiling a matcher.
///
/// # Errors
///
/// The text is not a valid glob, or exceeds the bounds.
pub fn glob(text: &str) -> Result<Glob, String> {
    if text.len() > LONGEST {
        return Err(format!("a glob of more than {LONGEST} bytes"));
    }
    let mut depth = 0usize;
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err(format!("a glob with more than {DEEPEST} nested braces"));
        }
    }
    Glob::new(text).map_err(|error| error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_globs_are_errors() {
        let nested = |depth| format!("{}a{}", "{".repeat(depth), "}".repeat(depth));
        for (text, why) in [
            (nested(500), "more than 256 bytes"),
            (nested(100), "more than 8 nested braces"),
            (nested(DEEPEST + 1), "more than 8 nested braces"),
            ("{".repeat(8), "unclosed alternate group"),
            ("[".to_owned(), "unclosed character class"),
            ("x".repeat(LONGEST + 1), "more than 256 bytes"),
        ] {
            let error = one(&text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(any(std::iter::repeat_n("a", MOST + 1)).unwrap_err().contains("more than 1000 globs"));
    }

    #[test]
    fn the_largest_globs_compile() {
        let nested = format!("{}a{}", "{".repeat(DEEPEST), "}".repeat(DEEPEST));
        assert!(one(&nested).unwrap().is_match("a"));
        let stars = "*?".repeat(LONGEST / 2);
        assert!(one(&stars).unwrap().is_match("x".repeat(LONGEST)));
        let class = format!("{}*", "[!a-y]".repeat(LONGEST / 6));
        assert!(one(&class).unwrap().is_match("z".repeat(LONGEST)));
        assert!(any(std::iter::repeat_n("veth*[0-9]?{a,b}", MOST)).unwrap().is_match("vethx1aa"));
    }
}
