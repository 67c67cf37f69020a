//! A file's text, its values, and where each of them stands.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, Span};
use serde_yaml::Value;

use super::model::Location;

/// How deep a document may nest; deeper is no scenario, and would exhaust the stack.
const DEEPEST: usize = 64;

/// Where a value stands, and how much of its first line it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) location: Location,
    pub(super) width: usize,
}

/// The positions of all values of a document, by their paths (`pods[0].name`), and of keys (`pods[0].name` with `@`).
pub(super) type Index = HashMap<String, Place>;

/// The text of a file, or why it is none.
pub(super) fn text(bytes: &[u8]) -> Result<String, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("is empty: a scenario has `pods` and `steps`".to_owned());
    }
    if bytes.contains(&0) {
        return Err("is a binary file: a scenario is a YAML text".to_owned());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = String::from_utf8_lossy(before).lines().count().max(1);
            Err(format!(
                "is not UTF-8 (line {line}, byte {}): save it as UTF-8",
                error.valid_up_to()
            ))
        }
    }
}

/// Something that is no YAML, or no document that a scenario can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) what: String,
}

/// The values of a text and their positions.
pub(super) fn read(text: &str) -> Result<(Value, Index), SyntaxError> {
    let index = index(text)?;
    let value = serde_yaml::from_str(text).map_err(|error| {
        let index = error.location().map_or(0, |at| at.index());
        let place = Place {
            location: locate(text, index),
            width: 1,
        };
        SyntaxError {
            place,
            what: error.to_string(),
        }
    })?;
    Ok((value, index))
}

/// The lines of a text, as the places of its values count them.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    lines.flat_map(|line| line.split('\r'))
}

/// Where the character at this byte stands. YAML 1.1 has three line breaks that no editor takes for one, so the line
/// that its parser names is not always the one that a person finds.
fn locate(text: &str, index: usize) -> Location {
    let before = text.get(..index).unwrap_or(text);
    let last = lines(before).last().unwrap_or_default();
    Location {
        line: lines(before).count(),
        column: last.chars().count() + 1,
    }
}

/// One level of nesting while the events come.
enum Level {
    Sequence {
        path: String,
        next: usize,
    },
    Mapping {
        path: String,
        key: Option<String>,
        seen: HashMap<String, Place>,
    },
}

fn index(text: &str) -> Result<Index, SyntaxError> {
    let mut index = Index::new();
    let mut levels: Vec<Level> = Vec::new();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| SyntaxError {
            place: Place {
                location: Location {
                    line: error.marker().line(),
                    column: error.marker().col() + 1,
                },
                width: 1,
            },
            what: error.info().to_owned(),
        })?;
        let place = place(span);
        let wrong = |what: &str| SyntaxError {
            place,
            what: what.to_owned(),
        };
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(wrong("a second document: a scenario file has one"));
                }
            }
            Event::Scalar(text, ..) => scalar(&mut levels, &mut index, &text, place)?,
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if levels.len() >= DEEPEST {
                    return Err(wrong("nested too deeply for a scenario"));
                }
                let path = begin(&mut levels, &mut index, place)?;
                levels.push(if matches!(event, Event::SequenceStart(..)) {
                    Level::Sequence { path, next: 0 }
                } else {
                    Level::Mapping {
                        path,
                        key: None,
                        seen: HashMap::new(),
                    }
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                levels.pop();
            }
            Event::Alias(_) => {
                return Err(wrong(
                    "an alias: write the value out, so that every mistake has one place",
                ));
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    Ok(index)
}

fn place(span: Span) -> Place {
    let width = if span.start.line() == span.end.line() {
        span.end.col().saturating_sub(span.start.col()).max(1)
    } else {
        1
    };
    Place {
        location: Location {
            line: span.start.line(),
            column: span.start.col() + 1,
        },
        width,
    }
}

/// The path of the value that begins here.
fn begin(levels: &mut [Level], index: &mut Index, place: Place) -> Result<String, SyntaxError> {
    let path = match levels.last_mut() {
        None => String::new(),
        Some(Level::Sequence { path, next }) => {
            let own = format!("{path}[{next}]");
            *next += 1;
            own
        }
        Some(Level::Mapping { path, key, .. }) => {
            let key = key.take().ok_or_else(|| SyntaxError {
                place,
                what: "a list or mapping where a field's name should be".to_owned(),
            })?;
            child(path, &key)
        }
    };
    index.insert(path.clone(), place);
    Ok(path)
}

/// The path of a field.
pub(super) fn child(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn scalar(levels: &mut [Level], index: &mut Index, text: &str, place: Place) -> Result<(), SyntaxError> {
    if let Some(Level::Mapping { path, key, seen }) = levels.last_mut()
        && key.is_none()
    {
        if let Some(first) = seen.insert(text.to_owned(), place) {
            let what = format!(
                "field `{text}` a second time (the first is on line {})",
                first.location.line
            );
            return Err(SyntaxError { place, what });
        }
        index.insert(format!("{}@", child(path, text)), place);
        *key = Some(text.to_owned());
        return Ok(());
    }
    begin(levels, index, place).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_and_field_has_a_place() {
        let (_, index) = read("a:\n  - {b: 1, c: [x]}\n").unwrap();
        let at = |path: &str| (index[path].location.line, index[path].location.column);
        assert_eq!(at("a@"), (1, 1));
        assert_eq!(at("a[0].b"), (2, 9));
        assert_eq!(at("a[0].c@"), (2, 12));
        assert_eq!(at("a[0].c[0]"), (2, 16));
    }

    #[track_caller]
    fn refused(text: &str, what: &str, line: usize) {
        let error = read(text).unwrap_err();
        assert!(error.what.contains(what), "{error:?}");
        assert_eq!(error.place.location.line, line, "{error:?}");
    }

    #[test]
    fn what_no_scenario_can_be() {
        refused("a: 1\nb: 2\na: 3\n", "a second time", 3);
        refused("a: 1\n---\nb: 2\n", "second document", 2);
        refused("a: &x 1\nb: *x\n", "an alias", 2);
        refused("a: [", "did not find expected node", 2);
        refused(&"[".repeat(100), "too deeply", 1);
    }

    #[test]
    fn lines_are_those_of_an_editor() {
        for (text, line, column) in [
            ("a: 1\nb: \u{85}\u{85}\u{2028}é\nc: 1", 3, 1),
            ("a: é\r\nb: [1\r\nc: 2", 3, 2),
            ("a: é\rb: [1\rc: 2", 3, 2),
        ] {
            let error = serde_yaml::from_str::<Value>(text).unwrap_err();
            let place = locate(text, error.location().unwrap().index());
            assert_eq!((place.line, place.column), (line, column), "{error}: {text:?}");
        }
    }
}
