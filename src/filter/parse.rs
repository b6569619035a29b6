//! Parses a filter.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::ops::Range;

use ipnet::IpNet;

use super::fields::Kind;
use super::token::{Token, tokens};
use super::{Comparison, Named, Node, Operand, Test};
use crate::pattern;

/// The number of characters before the fault, and what is wrong.
pub(super) type Fault = (usize, String);

/// Maximum length of a filter in bytes.
const LONGEST: usize = 4096;
/// Maximum depth of nested parentheses and "not".
const DEEPEST: usize = 64;

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token, Range<usize>)>,
    next: usize,
    depth: usize,
}

pub(super) fn filter<F: Named>(text: &str) -> Result<Option<Node<F>>, Fault> {
    if text.len() > LONGEST {
        return Err((0, format!("{} bytes: a filter has at most {LONGEST}", text.len())));
    }
    let column = |byte: usize| columns(text, byte);
    let tokens = tokens(text).map_err(|byte| {
        let what =
            if text.as_bytes().get(byte) == Some(&b'"') { "this quote is not closed" } else { "unexpected character" };
        (column(byte), what.to_owned())
    })?;
    if tokens.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser { text, tokens, next: 0, depth: 0 };
    let node = parser.any()?;
    match parser.tokens.get(parser.next) {
        None => Ok(Some(node)),
        Some((Token::Close, _)) => Err(parser.fault("this parenthesis was not opened")),
        Some(_) => Err(parser.fault("\"and\" or \"or\" is missing here")),
    }
}

/// Number of characters before a byte.
fn columns(text: &str, byte: usize) -> usize {
    text.get(..byte).unwrap_or(text).chars().count()
}

impl Parser<'_> {
    fn fault_at(&self, token: usize, what: impl Into<String>) -> Fault {
        let byte = self.tokens.get(token).map_or(self.text.len(), |(_, range)| range.start);
        (columns(self.text, byte), what.into())
    }

    fn fault(&self, what: impl Into<String>) -> Fault {
        self.fault_at(self.next, what)
    }

    fn take(&mut self) -> Option<Token> {
        let (token, _) = self.tokens.get(self.next)?;
        self.next += 1;
        Some(token.clone())
    }

    fn take_word(&mut self, wanted: &str) -> bool {
        let is =
            matches!(self.tokens.get(self.next), Some((Token::Word(word), _)) if word.eq_ignore_ascii_case(wanted));
        self.next += usize::from(is);
        is
    }

    fn any<F: Named>(&mut self) -> Result<Node<F>, Fault> {
        let mut nodes = vec![self.all()?];
        while self.take_word("or") {
            nodes.push(self.all()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all<F: Named>(&mut self) -> Result<Node<F>, Fault> {
        let mut nodes = vec![self.one()?];
        while self.take_word("and") {
            nodes.push(self.one()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn one<F: Named>(&mut self) -> Result<Node<F>, Fault> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.fault("nested too deeply"));
        }
        let node = if self.take_word("not") {
            Node::Not(Box::new(self.one()?))
        } else if self.tokens.get(self.next).is_some_and(|(token, _)| *token == Token::Open) {
            self.next += 1;
            let node = self.any()?;
            if self.tokens.get(self.next).is_none_or(|(token, _)| *token != Token::Close) {
                return Err(self.fault("\")\" is missing here"));
            }
            self.next += 1;
            node
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn test<F: Named>(&mut self) -> Result<Node<F>, Fault> {
        let at = self.next;
        let Some(Token::Word(name)) = self.take() else {
            return Err(self.fault_at(at, "a field is missing here, such as protocol or server_port"));
        };
        let field = F::named(&name).map_err(|what| self.fault_at(at, what))?;
        let Some(Token::Sign(sign)) = self.take() else {
            return Err(self.fault_at(at + 1, format!("a comparison of {name} is missing here: = != < <= > >= ~")));
        };
        let value = match self.take() {
            Some(Token::Word(text) | Token::Quoted(text)) => text,
            _ => return Err(self.fault_at(at + 2, format!("a value to compare {name} with is missing here"))),
        };
        let test = test(field, sign, &value).map_err(|what| self.fault_at(at + 2, what))?;
        field.takes(&test).map_err(|what| self.fault_at(at + 2, what))?;
        Ok(Node::Test(field, test))
    }
}

fn test(field: impl Named, sign: &str, value: &str) -> Result<Test, String> {
    let comparison = match sign {
        "=" => Comparison::Equal,
        "!=" => Comparison::Unequal,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => {
            return Ok(Test::Glob { matcher: pattern::one(value)? });
        }
    };
    let is = comparison == Comparison::Equal;
    let plain = is || comparison == Comparison::Unequal;
    match field.kind() {
        Kind::Address if plain => {
            let network = value.parse().or_else(|_| value.parse().map(|ip: std::net::IpAddr| IpNet::from(ip)));
            let network =
                network.map_err(|_| format!("{value} is neither an address nor a network such as 10.0.0.0/8"))?;
            Ok(Test::Within { network, is })
        }
        Kind::Address => Err(format!("addresses have no order: compare {} with =, != or ~", field.name())),
        Kind::Number => {
            let number = value.parse().map_err(|_| format!("{value} is not a number, which {} needs", field.name()))?;
            Ok(Test::Compare { value: Operand::Number(number), comparison })
        }
        Kind::Text if plain => Ok(Test::Text { value: value.to_owned(), is }),
        Kind::Text => Ok(Test::Compare { value: Operand::Text(value.to_owned()), comparison }),
    }
}
