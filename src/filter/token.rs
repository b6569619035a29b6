//! The words and signs of a filter, each with its place.

// What others wrote: no place in it is known to be there.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::ops::Range;

use winnow::ascii::multispace0;
use winnow::combinator::{alt, delimited, repeat, terminated};
use winnow::error::ContextError;
use winnow::stream::LocatingSlice;
use winnow::token::take_till;
use winnow::{Parser, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Open,
    Close,
    Sign(&'static str),
    /// As it stands there.
    Word(String),
    /// In quotes.
    Quoted(String),
}

type Input<'a> = LocatingSlice<&'a str>;

/// Signs that end a word. The longer come first.
const SIGNS: [&str; 7] = ["!=", "<=", ">=", "=", "<", ">", "~"];

fn sign(input: &mut Input<'_>) -> Result<Token, ContextError> {
    alt(SIGNS.map(|sign| sign.value(Token::Sign(sign)))).parse_next(input)
}

fn token(input: &mut Input<'_>) -> Result<Token, ContextError> {
    alt((
        '('.value(Token::Open),
        ')'.value(Token::Close),
        sign,
        delimited('"', take_till(0.., '"'), '"').map(|text: &str| Token::Quoted(text.to_owned())),
        take_till(1.., |c: char| c.is_whitespace() || "()!=<>~\"".contains(c))
            .map(|text: &str| Token::Word(text.to_owned())),
    ))
    .parse_next(input)
}

/// All tokens and the bytes they take; else the byte where there is none.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, usize> {
    let all = repeat(0.., terminated(token.with_span(), multispace0));
    let mut filter = winnow::combinator::preceded(multispace0, all);
    filter.parse(LocatingSlice::new(text)).map_err(|error: winnow::error::ParseError<_, ContextError>| error.offset())
}
