//! The text format of Prometheus, version 0.0.4. Lines are written at once: an object for each series and label would take most of the
//! time of a scrape.

use std::fmt::{self, Display, Write};

/// The labels of a series as they are on the page, without braces.
#[derive(Debug, Default)]
pub(super) struct LabelText(String);

impl LabelText {
    /// These labels in this order.
    pub(super) fn of(pairs: &[(&str, &str)]) -> LabelText {
        let mut labels = LabelText::default();
        pairs.iter().for_each(|(name, value)| labels.add(name, value));
        labels
    }

    /// Removes all labels.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a label.
    pub(super) fn add(&mut self, name: &str, value: impl Display) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        // Nothing fails to be written to a string.
        let _ = write!(Escaped(&mut self.0), "{value}");
        self.0.push('"');
    }
}

/// Text as the value of a label.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        let special = |byte: u8| matches!(byte, b'\\' | b'"' | b'\n');
        while let Some(at) = text.bytes().position(special) {
            let (before, rest) = text.split_at(at);
            self.0.push_str(before);
            self.0.push_str(match rest.as_bytes()[0] {
                b'\n' => "\\n",
                b'"' => "\\\"",
                _ => "\\\\",
            });
            text = &rest[1..];
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Samples of a family.
#[derive(Debug)]
pub(super) struct Lines {
    name: &'static str,
    pub(super) text: String,
}

impl Lines {
    /// None yet.
    pub(super) fn new(name: &'static str) -> Lines {
        Lines { name, text: String::new() }
    }

    /// Adds a sample of the series with these labels.
    pub(super) fn sample(&mut self, labels: &LabelText, value: f64) {
        self.line("", labels, None, value);
    }

    /// Adds a sample of a summary or a histogram: of one of its series, with the label that only this series has.
    pub(super) fn line(&mut self, suffix: &str, labels: &LabelText, own: Option<(&str, &str)>, value: f64) {
        let text = &mut self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        if !labels.0.is_empty() || own.is_some() {
            text.push('{');
            text.push_str(&labels.0);
            if let Some((name, value)) = own {
                text.push_str(if labels.0.is_empty() { "" } else { "," });
                text.push_str(name);
                text.push_str("=\"");
                text.push_str(value);
                text.push('"');
            }
            text.push('}');
        }
        text.push(' ');
        number(text, value);
        text.push('\n');
    }
}

/// Up to here, each whole number has a float of its own.
const EXACT_MOST: f64 = 9_007_199_254_740_992.0;

/// Writes a value. Most are counts: the same text, but written in less time.
fn number(text: &mut String, value: f64) {
    let whole = value as u64;
    let _ = if value.is_sign_positive() && value < EXACT_MOST && whole as f64 == value {
        write!(text, "{whole}")
    } else {
        write!(text, "{value}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        let mut labels = LabelText::of(&[("path", r"C:\new"), ("said", "\"ä\"\n"), ("empty", "")]);
        assert_eq!(labels.0, r#"path="C:\\new",said="\"ä\"\n",empty="""#);
        labels.clear();
        labels.add("ip", std::net::Ipv4Addr::LOCALHOST);
        assert_eq!(labels.0, r#"ip="127.0.0.1""#);
    }

    #[test]
    fn numbers_are_those_of_floats() {
        let numbers = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, 123_456_789.0, EXACT_MOST - 1.0, EXACT_MOST, 1e19, 1e300];
        for value in numbers.into_iter().chain([f64::INFINITY, f64::NEG_INFINITY, f64::NAN]) {
            let mut text = String::new();
            number(&mut text, value);
            assert_eq!(text, value.to_string());
        }
    }

    #[test]
    fn a_line_has_a_name_labels_and_a_value() {
        let mut lines = Lines::new("took_seconds");
        lines.sample(&LabelText::default(), 3.0);
        lines.line("_sum", &LabelText::of(&[("a", "b")]), None, 0.25);
        lines.line("_bucket", &LabelText::of(&[("a", "b")]), Some(("le", "+Inf")), 7.0);
        lines.line("", &LabelText::default(), Some(("quantile", "0.5")), f64::NAN);
        let expected = "took_seconds 3\ntook_seconds_sum{a=\"b\"} 0.25\ntook_seconds_bucket{a=\"b\",le=\"+Inf\"} 7\n\
                        took_seconds{quantile=\"0.5\"} NaN\n";
        assert_eq!(lines.text, expected);
    }
}
