//! Globs, as filters and the choice of interfaces have them. To compile one takes no more than its bounds allow, and whatever is
//! wrong with it is an error.

// What others wrote: no place in it is known to be there.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use globset::{Glob, GlobSet, GlobSetBuilder};

/// No name that is compared with one is longer, in bytes.
const LONGEST: usize = 256;
/// Braces in each other. Each is a group of a regular expression, and of those only so many may be in each other.
const DEEPEST: usize = 8;
/// More than there are interfaces to name.
const MOST: usize = 1000;

/// One that matches a whole text.
pub fn one(text: &str) -> Result<GlobSet, String> {
    any(std::iter::once(text))
}

/// Those of which one matches.
pub fn any<'a>(texts: impl Iterator<Item = &'a str>) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for (i, text) in texts.enumerate() {
        if i == MOST {
            return Err(format!("more than {MOST} globs"));
        }
        set.add(glob(text)?);
    }
    // A matcher of a single glob would panic where this is an error.
    set.build().map_err(|error| error.kind().to_string())
}

/// Checked; what it takes to match is not made yet.
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
            return Err(format!("a glob with more than {DEEPEST} braces in each other"));
        }
    }
    Glob::new(text).map_err(|error| error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_compiled_is_an_error() {
        let nested = |depth| format!("{}a{}", "{".repeat(depth), "}".repeat(depth));
        for (text, why) in [
            (nested(500), "more than 256 bytes"),
            (nested(100), "more than 8 braces"),
            (nested(DEEPEST + 1), "more than 8 braces"),
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
    fn the_largest_compile() {
        let nested = format!("{}a{}", "{".repeat(DEEPEST), "}".repeat(DEEPEST));
        assert!(one(&nested).unwrap().is_match("a"));
        let stars = "*?".repeat(LONGEST / 2);
        assert!(one(&stars).unwrap().is_match("x".repeat(LONGEST)));
        let class = format!("{}*", "[!a-y]".repeat(LONGEST / 6));
        assert!(one(&class).unwrap().is_match("z".repeat(LONGEST)));
        assert!(any(std::iter::repeat_n("veth*[0-9]?{a,b}", MOST)).unwrap().is_match("vethx1aa"));
    }
}
