//! The configuration file: YAML, or a Kubernetes ConfigMap that has it in `data`.

use saphyr::{MarkedYaml, ScalarStyle, YamlData, YamlLoader};
use saphyr_parser::Parser;

use super::Key;
use super::value::Given;

/// A value of the file, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Keys from the top, joined by dots.
    pub path: String,
    /// `None`: the key has no value.
    pub given: Option<Given>,
    /// Of the key.
    pub key_at: Position,
    /// Of the value.
    pub at: Position,
}

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub line: usize,
    pub column: usize,
}

/// What is wrong, and where.
pub(super) type Fault = (Position, String);

/// A key under which a ConfigMap may have the file.
const DATA: &str = "config.yaml";
/// Keys in keys: deeper than any that is known.
const DEEPEST: usize = 8;

/// All values of a file.
pub(super) fn read(text: &str) -> Result<Vec<Entry>, Fault> {
    let Some(top) = parse(text)? else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    match config_map(&top) {
        Some(Some((embedded, inner))) => {
            let shift = |at: Position| shifted(text, embedded, at);
            let moved = |(at, fault): Fault| (shift(at), fault);
            if let Some(top) = parse(inner).map_err(moved)? {
                flatten(&top, "", 0, &mut entries).map_err(moved)?;
            }
            for entry in &mut entries {
                (entry.key_at, entry.at) = (shift(entry.key_at), shift(entry.at));
            }
        }
        Some(None) => return Err((start(&top), format!("this ConfigMap has no {DATA} in its data"))),
        None => flatten(&top, "", 0, &mut entries)?,
    }
    Ok(entries)
}

fn parse(text: &str) -> Result<Option<MarkedYaml<'_>>, Fault> {
    let fault = |error: saphyr_parser::ScanError| (position(error.marker()), error.info().to_owned());
    let mut loader = YamlLoader::<MarkedYaml>::default();
    // As written: what a value means is for its key to say.
    loader.early_parse(false);
    Parser::new_from_str(text).load(&mut loader, true).map_err(fault)?;
    if let Some(error) = loader.error() {
        return Err(fault(error.clone()));
    }
    let mut documents = loader.into_documents();
    match documents.len() {
        0 | 1 => Ok(documents.pop()),
        _ => Err((start(&documents[1]), "a second document: one is all there may be".to_owned())),
    }
}

fn flatten(node: &MarkedYaml, path: &str, depth: usize, entries: &mut Vec<Entry>) -> Result<(), Fault> {
    let mapping = match &node.data {
        YamlData::Mapping(mapping) => mapping,
        _ if depth == 0 && is_empty(node) => return Ok(()),
        _ => return Err((start(node), "keys and values are expected: \"capture:\", \"flow:\" …".to_owned())),
    };
    for (key, value) in mapping {
        let Some(name) = text_of(key) else {
            return Err((start(key), "a key must be a plain text".to_owned()));
        };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let given = match &value.data {
            YamlData::Mapping(pairs) if Key::is_mapping(&path) => {
                let item = |(key, value): (&MarkedYaml, &MarkedYaml)| match (text_of(key), text_of(value)) {
                    (Some(key), Some(value)) => Ok(format!("{key}={value}")),
                    _ => Err((start(key), format!("{path}: a name and a value are expected"))),
                };
                Some(Given::List(pairs.iter().map(item).collect::<Result<_, _>>()?))
            }
            YamlData::Mapping(_) if depth < DEEPEST => {
                flatten(value, &path, depth + 1, entries)?;
                continue;
            }
            YamlData::Sequence(items) => {
                let text = |item: &MarkedYaml| {
                    let text = text_of(item).map(str::to_owned);
                    text.ok_or_else(|| (start(item), format!("{path}: an item of a list must be one value")))
                };
                Some(Given::List(items.iter().map(text).collect::<Result<_, _>>()?))
            }
            _ if is_empty(value) => None,
            _ => match text_of(value) {
                Some(text) => Some(Given::Text(text.to_owned())),
                None => return Err((start(value), format!("{path}: neither a value nor a list of values"))),
            },
        };
        entries.push(Entry { path, given, key_at: start(key), at: start(value) });
    }
    Ok(())
}

/// `Some(None)`: a ConfigMap without the file.
fn config_map<'a>(top: &'a MarkedYaml) -> Option<Option<(&'a MarkedYaml<'a>, &'a str)>> {
    if text_of(member(top, "kind")?)? != "ConfigMap" {
        return None;
    }
    let embedded = member(top, "data").and_then(|data| member(data, DATA));
    Some(embedded.and_then(|node| Some((node, text_of(node)?))))
}

fn member<'a>(node: &'a MarkedYaml, name: &str) -> Option<&'a MarkedYaml<'a>> {
    let YamlData::Mapping(mapping) = &node.data else { return None };
    mapping.iter().find(|(key, _)| text_of(key) == Some(name)).map(|(_, value)| value)
}

fn text_of<'a>(node: &'a MarkedYaml) -> Option<&'a str> {
    match &node.data {
        YamlData::Representation(text, _, _) => Some(text),
        _ => None,
    }
}

fn is_empty(node: &MarkedYaml) -> bool {
    match &node.data {
        YamlData::Representation(text, ScalarStyle::Plain, _) => matches!(&**text, "" | "~" | "null"),
        YamlData::Value(scalar) => scalar.is_null(),
        _ => false,
    }
}

fn position(marker: &saphyr_parser::Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

fn start(node: &MarkedYaml) -> Position {
    position(&node.span.start)
}

/// Where a place of the embedded text is in the whole file. What is not written line by line is told by its begin.
fn shifted(whole: &str, embedded: &MarkedYaml, inner: Position) -> Position {
    let begin = start(embedded);
    let is_block = matches!(&embedded.data, YamlData::Representation(_, ScalarStyle::Literal, _));
    if !is_block {
        return begin;
    }
    // The marker is that of the "|", or of the first line of the text.
    let lines: Vec<&str> = whole.lines().collect();
    let first = if lines.get(begin.line - 1).is_some_and(|line| line.trim_end().ends_with(['|', '-', '+'])) {
        begin.line + 1
    } else {
        begin.line
    };
    let indent = lines.get(first - 1).map_or(0, |line| line.len() - line.trim_start().len());
    Position { line: first + inner.line - 1, column: indent + inner.column }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    #[test]
    fn values_and_their_places() {
        let text = "# netmon\ncapture:\n  interfaces: [\"eth0\", 'veth*']\n  sampling_rate: 1.0\nflow:\n  max_age:\n";
        let entries = read(text).unwrap();
        let list = Given::List(vec!["eth0".to_owned(), "veth*".to_owned()]);
        assert_eq!(entries[0].path, "capture.interfaces");
        assert_eq!((&entries[0].given, entries[0].key_at, entries[0].at), (&Some(list), at(3, 3), at(3, 15)));
        assert_eq!(entries[1].given, Some(Given::Text("1.0".to_owned())));
        assert_eq!((entries[1].key_at, entries[1].at), (at(4, 3), at(4, 18)));
        assert_eq!((entries[2].path.as_str(), &entries[2].given), ("flow.max_age", &None));
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn a_mapping_of_the_user_s_own_is_a_list() {
        let text = "names:\n  cidrs: {\"10.1.0.0/16\": corp, 10.2.0.0/16: \"lab\"}\n";
        let entries = read(text).unwrap();
        let list = Given::List(vec!["10.1.0.0/16=corp".to_owned(), "10.2.0.0/16=lab".to_owned()]);
        assert_eq!((entries[0].path.as_str(), &entries[0].given, entries.len()), ("names.cidrs", &Some(list), 1));
        let nested = "names:\n  cidrs:\n    10.1.0.0/16: [corp]\n";
        assert_eq!(read(nested).unwrap_err().0, at(3, 5));
    }

    #[test]
    fn nothing_is_a_file_too() {
        for text in ["", "# nothing\n", "---\n", "{}", "~"] {
            assert_eq!(read(text).unwrap(), [], "{text:?}");
        }
    }

    #[test]
    fn faults_are_placed() {
        for (text, place, what) in [
            ("- capture\n", at(1, 1), "keys and values"),
            ("capture: [eth0\n", at(2, 1), "expected"),
            ("a: 1\na: 2\n", at(2, 1), "duplicate"),
            ("a: 1\n---\nb: 2\n", at(3, 1), "second document"),
            ("a: [[1]]\n", at(1, 5), "one value"),
            ("a:\n\tb: 1\n", at(2, 2), "tab"),
            ("kind: ConfigMap\ndata: {}\n", at(1, 1), "no config.yaml"),
        ] {
            let (found, fault) = read(text).unwrap_err();
            assert!(fault.to_lowercase().contains(what), "{text:?}: {fault}");
            assert_eq!(found, place, "{text:?}: {fault}");
        }
    }

    #[test]
    fn a_config_map_has_it_inside() {
        let text = "apiVersion: v1\nkind: ConfigMap\ndata:\n  config.yaml: |\n    flow:\n      max_age: 5m\n";
        let entries = read(text).unwrap();
        assert_eq!((entries[0].path.as_str(), entries[0].key_at, entries[0].at), ("flow.max_age", at(6, 7), at(6, 16)));
        let broken = text.replace("max_age: 5m", "max_age: [5m");
        assert!(read(&broken).unwrap_err().0.line >= 6);
        let quoted = "kind: ConfigMap\ndata:\n  config.yaml: \"flow: {max_age: 5m}\"\n";
        assert_eq!((read(quoted).unwrap()[0].at, read(quoted).unwrap().len()), (at(3, 16), 1));
    }
}
