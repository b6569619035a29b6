//! Splits a filter into words and signs, each with its position.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Open,
    Close,
    Sign(&'static str),
    /// A word without quotes.
    Word(String),
    /// A text in quotes, without them.
    Quoted(String),
}

/// Signs that end a word. Longer ones come first.
const SIGNS: [&str; 7] = ["!=", "<=", ">=", "=", "<", ">", "~"];

/// Characters that may separate tokens. Other Unicode white space ends a word, but is an error by itself: people do not
/// see it.
const BETWEEN: [char; 4] = [' ', '\t', '\r', '\n'];

fn ends_word(c: char) -> bool {
    c.is_whitespace() || "()!=<>~\"".contains(c)
}

/// The token that `text` starts with, and what follows it.
fn token(text: &str) -> Option<(Token, &str)> {
    if let Some(rest) = text.strip_prefix('(') {
        return Some((Token::Open, rest));
    }
    if let Some(rest) = text.strip_prefix(')') {
        return Some((Token::Close, rest));
    }
    if let Some(signed) = SIGNS.iter().find_map(|&sign| Some((Token::Sign(sign), text.strip_prefix(sign)?))) {
        return Some(signed);
    }
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted.split_once('"').map(|(inside, rest)| (Token::Quoted(inside.to_owned()), rest));
    }
    let (word, rest) = text.split_at_checked(text.find(ends_word).unwrap_or(text.len()))?;
    (!word.is_empty()).then(|| (Token::Word(word.to_owned()), rest))
}

/// All tokens and the bytes they take. The error is the position of a byte that starts no token.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, usize> {
    let mut tokens = Vec::new();
    let mut left = text.trim_start_matches(BETWEEN);
    while !left.is_empty() {
        let start = text.len() - left.len();
        let (token, rest) = token(left).ok_or(start)?;
        tokens.push((token, start..text.len() - rest.len()));
        left = rest.trim_start_matches(BETWEEN);
    }
    Ok(tokens)
}
