//! Filters over flows and packets, as `netmon-cli` takes them: `protocol=tcp and server_port=443 and not status=ok`.
//! Pure.
//!
//! ```text
//! filter     = all { "or" all }
//! all        = one { "and" one }
//! one        = "not" one | "(" filter ")" | field comparison value
//! comparison = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~"
//! ```
//!
//! `~` compares with a glob. An address may be compared with a network: `client_ip=10.0.0.0/8`. A value with spaces or
//! with signs of the grammar needs double quotes.

mod compile;
mod early;
mod fields;
mod packet;
mod parse;
mod token;

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

use globset::GlobSet;
use ipnet::IpNet;

pub use fields::{FIELDS, Field, Kind};
pub use packet::PacketFilter;

use crate::line::Line;

/// A parsed filter over flows.
#[derive(Clone, Debug, Default)]
pub struct Filter(Option<Node<&'static Field>>);

/// Maximum length of a filter that is shown in an error, in bytes.
const SHOWN: usize = 1000;

/// An error in a filter, with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    filter: String,
    /// Number of characters before the fault.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl FilterError {
    fn new(filter: &str, (column, message): parse::Fault) -> FilterError {
        // The filter is shown on one line with a mark below it, unless it is too long or would move the mark.
        let is_line = filter.len() <= SHOWN && !filter.contains(char::is_control);
        let filter = if is_line { filter.to_owned() } else { String::new() };
        FilterError { filter, column, message }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if self.filter.is_empty() {
            return Ok(());
        }
        write!(f, "\n  {}\n  {:>2$}", self.filter, "^", self.column + 1)
    }
}

impl std::error::Error for FilterError {}

/// A node of a filter; `F` is the type of the fields.
#[derive(Clone, Debug)]
enum Node<F> {
    Any(Vec<Node<F>>),
    All(Vec<Node<F>>),
    Not(Box<Node<F>>),
    Test(F, Test),
}

/// The fields of a kind of filter. Errors say what is wrong.
trait Named: Copy {
    fn named(name: &str) -> Result<Self, String>;
    fn name(self) -> &'static str;
    fn kind(self) -> Kind;
    /// Checks that the field supports this test.
    fn takes(self, test: &Test) -> Result<(), String>;
}

impl Named for &'static Field {
    fn named(name: &str) -> Result<Self, String> {
        Field::named(name).ok_or_else(|| {
            let others = fields::OTHER_NAMES.iter().map(|(other, _)| *other);
            unknown(name, FIELDS.iter().map(|field| field.name), others)
        })
    }

    fn name(self) -> &'static str {
        self.name
    }

    fn kind(self) -> Kind {
        self.kind
    }

    fn takes(self, _: &Test) -> Result<(), String> {
        Ok(())
    }
}

/// Longer than the name of any field, in bytes.
const LONGEST_NAME: usize = 64;

/// The message that there is no such field, with the most similar one or all.
fn unknown(
    name: &str,
    fields: impl Iterator<Item = &'static str> + Clone,
    others: impl Iterator<Item = &'static str>,
) -> String {
    if name.len() > LONGEST_NAME {
        return format!("no field has a name of {} bytes", name.len());
    }
    let ranked = fields.clone().chain(others).map(|field| (strsim::damerau_levenshtein(name, field), field));
    match ranked.min_by_key(|(distance, _)| *distance) {
        Some((distance, near)) if distance <= 3 => format!("there is no field {name}: did you mean {near}?"),
        _ => format!("there is no field {name}; the fields are {}", fields.collect::<Vec<_>>().join(" ")),
    }
}

#[derive(Clone, Debug)]
enum Test {
    Text { value: String, is: bool },
    Glob { matcher: GlobSet },
    Within { network: IpNet, is: bool },
    Compare { value: Operand, comparison: Comparison },
}

#[derive(Clone, Debug)]
enum Operand {
    Number(f64),
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::Unequal => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Number(f64),
    /// An address.
    Address(IpAddr),
}

impl Filter {
    /// Parses a filter; an empty one lets everything pass.
    ///
    /// # Errors
    ///
    /// The text is not a valid filter.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        parse::filter(text).map(Filter).map_err(|fault| FilterError::new(text, fault))
    }

    /// True if the flow passes.
    pub fn matches(&self, line: &Line) -> bool {
        self.0.as_ref().is_none_or(|node| node.matches(line))
    }
}

impl Node<&'static Field> {
    fn matches(&self, line: &Line) -> bool {
        match self {
            Node::Any(nodes) => nodes.iter().any(|node| node.matches(line)),
            Node::All(nodes) => nodes.iter().all(|node| node.matches(line)),
            Node::Not(node) => !node.matches(line),
            Node::Test(field, test) => test.matches((field.values)(line)),
        }
    }
}

impl Test {
    /// A field that stands for both ends passes if one of them does, and differs if neither is equal. An absent value
    /// differs from everything, and no comparison holds for it.
    fn matches(&self, values: [Option<Value<'_>>; 2]) -> bool {
        let any = |test: &dyn Fn(Value<'_>) -> bool| values.into_iter().flatten().any(test);
        match self {
            Test::Text { value, is } => any(&|v| matches!(v, Value::Text(text) if text == value)) == *is,
            Test::Glob { matcher } => any(&|v| match v {
                Value::Text(text) => matcher.is_match(text),
                Value::Number(number) => matcher.is_match(number.to_string()),
                Value::Address(ip) => matcher.is_match(ip.to_string()),
            }),
            Test::Within { network, is } => any(&|v| matches!(v, Value::Address(ip) if network.contains(&ip))) == *is,
            Test::Compare { value, comparison: Comparison::Unequal } => {
                !any(&|v| compare(v, value).is_some_and(Ordering::is_eq))
            }
            Test::Compare { value, comparison } => {
                any(&|v| compare(v, value).is_some_and(|order| comparison.holds(order)))
            }
        }
    }
}

fn compare(value: Value<'_>, with: &Operand) -> Option<Ordering> {
    match (value, with) {
        (Value::Number(number), Operand::Number(other)) => number.partial_cmp(other),
        (Value::Text(text), Operand::Text(other)) => Some(text.cmp(other.as_str())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
