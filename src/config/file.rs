//! The configuration file: YAML, or a Kubernetes ConfigMap with that YAML in its `data`.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use saphyr::{AnnotatedMapping, MarkedYaml, ScalarStyle, YamlData};

use super::Key;
use super::faults::shown;
use super::value::Given;
use super::yaml::{Fault, Position, is_empty, member, parse, start, text_of};

/// A value of the file, and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Keys from the top, joined by dots.
    pub path: String,
    pub value: Value,
    /// Position of the key.
    pub key_at: Position,
    /// Position of the value.
    pub at: Position,
}

/// What follows a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// No value.
    Absent,
    /// A value, or a list of them.
    Given(Given),
    /// A mapping where a value is expected, or an empty mapping.
    Keys,
}

/// The key in a ConfigMap's `data` that holds the file.
const DATA: &str = "config.yaml";
/// Reads all values of a file.
pub(super) fn read(text: &str) -> Result<Vec<Entry>, Fault> {
    let Some(top) = parse(text)? else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    match config_map(&top) {
        Some(Some((embedded, inner))) => {
            let shift = Shift::of(text, embedded);
            let moved = |(at, fault): Fault| (shift.moved(at), fault);
            if let Some(top) = parse(inner).map_err(moved)? {
                flatten(&top, "", &mut entries).map_err(moved)?;
            }
            for entry in &mut entries {
                (entry.key_at, entry.at) = (shift.moved(entry.key_at), shift.moved(entry.at));
            }
        }
        Some(None) => return Err((start(&top), format!("this ConfigMap has no {DATA} in its data"))),
        None => flatten(&top, "", &mut entries)?,
    }
    Ok(entries)
}

fn flatten(node: &MarkedYaml, path: &str, entries: &mut Vec<Entry>) -> Result<(), Fault> {
    let mapping = match &node.data {
        YamlData::Mapping(mapping) => mapping,
        _ if path.is_empty() && is_empty(node) => return Ok(()),
        _ => return Err((start(node), "expected keys and values: \"capture:\", \"flow:\" …".to_owned())),
    };
    for (key, value) in mapping {
        let Some(name) = text_of(key).filter(|name| !name.is_empty()) else {
            return Err((start(key), "a key must be plain text".to_owned()));
        };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let found = match &value.data {
            YamlData::Mapping(pairs) if Key::is_mapping(&path) => Value::Given(named(&path, pairs)?),
            YamlData::Mapping(pairs) if pairs.is_empty() || Key::named(&path).is_some() => Value::Keys,
            YamlData::Mapping(_) => {
                flatten(value, &path, entries)?;
                continue;
            }
            YamlData::Sequence(items) => {
                let text = |item: &MarkedYaml| {
                    let text = text_of(item).map(str::to_owned);
                    text.ok_or_else(|| (start(item), format!("{}: a list item must be a single value", shown(&path))))
                };
                Value::Given(Given::List(items.iter().map(text).collect::<Result<_, _>>()?))
            }
            _ if is_empty(value) => Value::Absent,
            _ => match text_of(value) {
                Some(text) => Value::Given(Given::Text(text.to_owned())),
                None => return Err((start(value), format!("{}: neither a value nor a list of values", shown(&path)))),
            },
        };
        entries.push(Entry { path, value: found, key_at: start(key), at: start(value) });
    }
    Ok(())
}

/// Turns each pair of a mapping into a list item `key=value`.
fn named<'a>(path: &str, pairs: &AnnotatedMapping<'a, MarkedYaml<'a>>) -> Result<Given, Fault> {
    let item = |(key, value): (&MarkedYaml<'a>, &MarkedYaml<'a>)| match (text_of(key), text_of(value)) {
        (Some(key), Some(value)) => Ok(format!("{key}={value}")),
        _ => Err((start(key), format!("{path}: expected a name and a value"))),
    };
    Ok(Given::List(pairs.iter().map(item).collect::<Result<_, _>>()?))
}

/// The file inside a ConfigMap; `Some(None)` for a ConfigMap without it.
fn config_map<'a>(top: &'a MarkedYaml) -> Option<Option<(&'a MarkedYaml<'a>, &'a str)>> {
    if text_of(member(top, "kind")?)? != "ConfigMap" {
        return None;
    }
    let embedded = member(top, "data").and_then(|data| member(data, DATA));
    Some(embedded.and_then(|node| Some((node, text_of(node)?))))
}

/// How positions in the embedded text map to the whole file. If the text is no literal block, all positions map to its
/// start.
enum Shift {
    To(Position),
    By { line: usize, column: usize },
}

impl Shift {
    fn of(whole: &str, embedded: &MarkedYaml) -> Shift {
        let begin = start(embedded);
        if !matches!(&embedded.data, YamlData::Representation(_, ScalarStyle::Literal, _)) {
            return Shift::To(begin);
        }
        // The marker is that of the "|", or of the first line of the text.
        let mut lines = whole.lines().skip(begin.line - 1);
        let marked = lines.next().unwrap_or_default();
        let is_sign = marked.trim_end().ends_with(['|', '-', '+']);
        let first = if is_sign { lines.next().unwrap_or_default() } else { marked };
        let line = begin.line + usize::from(is_sign) - 1;
        Shift::By { line, column: first.len() - first.trim_start().len() }
    }

    fn moved(&self, at: Position) -> Position {
        match self {
            Shift::To(begin) => *begin,
            Shift::By { line, column } => Position { line: line + at.line, column: column + at.column },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    #[test]
    fn values_have_positions() {
        let text = "# netmon\ncapture:\n  interfaces: [\"eth0\", 'veth*']\n  sampling_rate: 1.0\nflow:\n  max_age:\n";
        let entries = read(text).unwrap();
        let list = Given::List(vec!["eth0".to_owned(), "veth*".to_owned()]);
        assert_eq!(entries[0].path, "capture.interfaces");
        assert_eq!((&entries[0].value, entries[0].key_at, entries[0].at), (&Value::Given(list), at(3, 3), at(3, 15)));
        assert_eq!(entries[1].value, Value::Given(Given::Text("1.0".to_owned())));
        assert_eq!((entries[1].key_at, entries[1].at), (at(4, 3), at(4, 18)));
        assert_eq!((entries[2].path.as_str(), &entries[2].value), ("flow.max_age", &Value::Absent));
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn a_mapping_of_the_user_s_own_is_a_list() {
        let text = "names:\n  cidrs: {\"10.1.0.0/16\": corp, 10.2.0.0/16: \"lab\"}\n";
        let entries = read(text).unwrap();
        let list = Given::List(vec!["10.1.0.0/16=corp".to_owned(), "10.2.0.0/16=lab".to_owned()]);
        assert_eq!(
            (entries[0].path.as_str(), &entries[0].value, entries.len()),
            ("names.cidrs", &Value::Given(list), 1)
        );
        let nested = "names:\n  cidrs:\n    10.1.0.0/16: [corp]\n";
        assert_eq!(read(nested).unwrap_err().0, at(3, 5));
    }

    #[test]
    fn an_empty_file_is_valid() {
        for text in ["", "# nothing\n", "---\n", "{}", "~"] {
            assert_eq!(read(text).unwrap(), [], "{text:?}");
        }
    }

    #[test]
    fn faults_are_placed() {
        for (text, place, what) in [
            ("- capture\n", at(1, 1), "expected keys and values"),
            ("capture: [eth0\n", at(2, 1), "expected"),
            ("a: 1\na: 2\n", at(2, 1), "duplicate"),
            ("a: 1\n---\nb: 2\n", at(3, 1), "second document"),
            ("a: [[1]]\n", at(1, 5), "single value"),
            ("a:\n\tb: 1\n", at(2, 2), "tab"),
            ("kind: ConfigMap\ndata: {}\n", at(1, 1), "no config.yaml"),
            ("a: &a [b]\nc: *a\n", at(2, 4), "an alias"),
        ] {
            let (found, fault) = read(text).unwrap_err();
            assert!(fault.to_lowercase().contains(what), "{text:?}: {fault}");
            assert_eq!(found, place, "{text:?}: {fault}");
        }
    }

    /// Recursion for each level would overflow the stack and end the program.
    #[test]
    fn depth_is_bounded() {
        let flow = "[".repeat(500_000);
        let block = "- ".repeat(500_000);
        let keys: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        for text in [flow, block, keys] {
            let (_, fault) = read(&text).unwrap_err();
            assert!(fault.contains("deeper than 32 levels") || fault.contains("recursion"), "{fault}");
            let inside = format!("kind: ConfigMap\ndata: {{config.yaml: \"{}\"}}\n", text.replace('\n', "\\n"));
            assert!(read(&inside).is_err());
        }
    }

    #[test]
    fn a_config_map_holds_the_file() {
        let text = "apiVersion: v1\nkind: ConfigMap\ndata:\n  config.yaml: |\n    flow:\n      max_age: 5m\n";
        let entries = read(text).unwrap();
        assert_eq!((entries[0].path.as_str(), entries[0].key_at, entries[0].at), ("flow.max_age", at(6, 7), at(6, 16)));
        let broken = text.replace("max_age: 5m", "max_age: [5m");
        assert!(read(&broken).unwrap_err().0.line >= 6);
        let quoted = "kind: ConfigMap\ndata:\n  config.yaml: \"flow: {max_age: 5m}\"\n";
        assert_eq!((read(quoted).unwrap()[0].at, read(quoted).unwrap().len()), (at(3, 16), 1));
    }
}
