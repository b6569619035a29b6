//! YAML with positions: parsed in bounded depth, without aliases, and with values as they were written.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use saphyr::{MarkedYaml, ScalarStyle, YamlData, YamlLoader};
use saphyr_parser::{Event, Parser, SpannedEventReceiver};

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub line: usize,
    pub column: usize,
}

/// A position, and what is wrong there.
pub(super) type Fault = (Position, String);

/// Maximum depth: more than any known key has, or anything that Kubernetes puts into a ConfigMap.
const DEEPEST: usize = 32;

/// The only document of a text, if it has one.
pub(super) fn parse(text: &str) -> Result<Option<MarkedYaml<'_>>, Fault> {
    let fault = |error: saphyr_parser::ScanError| (position(error.marker()), error.info().to_owned());
    let mut loader = YamlLoader::<MarkedYaml>::default();
    // Keep values as written: each key interprets its own.
    loader.early_parse(false);
    let mut depth = 0usize;
    // Feed the loader event by event: the parser's own loop recurses for each level, and so does dropping what the
    // loader builds.
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(fault)?;
        let at = position(&span.start);
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            // A few lines of aliases may expand to gigabytes.
            Event::Alias(_) => return Err((at, "an alias is not supported: write the value itself".to_owned())),
            _ => {}
        }
        if depth > DEEPEST {
            return Err((at, format!("deeper than {DEEPEST} levels")));
        }
        loader.on_event(event, span);
    }
    if let Some(error) = loader.error() {
        return Err(fault(error.clone()));
    }
    let mut documents = loader.into_documents();
    match documents.get(1) {
        None => Ok(documents.pop()),
        Some(second) => Err((start(second), "a second document: the file must have only one".to_owned())),
    }
}

/// The value of a key, if the node is a mapping that has it.
pub(super) fn member<'a>(node: &'a MarkedYaml, name: &str) -> Option<&'a MarkedYaml<'a>> {
    let YamlData::Mapping(mapping) = &node.data else { return None };
    mapping.iter().find(|(key, _)| text_of(key) == Some(name)).map(|(_, value)| value)
}

/// The text of a single value, as it was written.
pub(super) fn text_of<'a>(node: &'a MarkedYaml) -> Option<&'a str> {
    match &node.data {
        YamlData::Representation(text, _, _) => Some(text),
        _ => None,
    }
}

/// There is no value.
pub(super) fn is_empty(node: &MarkedYaml) -> bool {
    match &node.data {
        YamlData::Representation(text, ScalarStyle::Plain, _) => matches!(&**text, "" | "~" | "null"),
        YamlData::Value(scalar) => scalar.is_null(),
        _ => false,
    }
}

fn position(marker: &saphyr_parser::Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

/// Where a node begins.
pub(super) fn start(node: &MarkedYaml) -> Position {
    position(&node.span.start)
}
