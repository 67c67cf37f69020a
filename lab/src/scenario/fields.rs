//! Values read one by one, every mistake collected with its place: what a derived deserializer, which stops at its first,
//! cannot do.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a YAML value of any other kind is the same mistake"
)]

use std::cell::RefCell;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use super::custom::Files;
use super::mistake::{self, Loaded, Mistake, Mistakes, Warning};
use super::model::{Location, Scenario};
use super::source::{self, Index, Place};

/// A value and its path.
#[derive(Debug, Clone)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

/// The fields of a mapping whose names are all known.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    mapping: &'a Mapping,
    path: String,
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    root: Value,
    index: Index,
    files: Files,
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Warning>>,
}

impl<'a> Fields<'a> {
    /// A field, if it is there and says anything.
    pub(super) fn get(&self, name: &str) -> Option<At<'a>> {
        let value = self.mapping.get(name).filter(|value| !value.is_null())?;
        Some(At {
            value,
            path: source::child(&self.path, name),
        })
    }

    /// All fields, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = (String, At<'a>)> {
        self.mapping.iter().filter_map(|(key, value)| {
            let key = scalar_text(key)?;
            let path = source::child(&self.path, &key);
            Some((key, At { value, path }))
        })
    }
}

/// A scalar as it would be written.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a tagged value",
    }
}

/// The name among `known` that is nearest to `name`, if one is near.
pub(super) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let scored = known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 > 0.75).then_some(best.1)
}

/// `did you mean X?`, or the whole list.
pub(super) fn suggestion(name: &str, what: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("there are no {what}"),
        None => format!("{what} are: {}", known.join(", ")),
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str, text: &'a str, files: Files) -> Result<Self, Mistakes> {
        let (root, index) = source::read(text).map_err(|error| {
            let mistake = Mistake {
                place: error.place,
                what: error.what,
                help: String::new(),
            };
            Mistakes::new(file, text, vec![mistake])
        })?;
        Ok(Self {
            file,
            text,
            root,
            index,
            files,
            mistakes: RefCell::default(),
            warnings: RefCell::default(),
        })
    }

    /// The text of a file that the scenario names, or why it cannot be had.
    pub(super) fn file(&self, name: &str) -> Result<String, String> {
        self.files.text(name)
    }

    pub(super) fn root(&self) -> At<'_> {
        At {
            value: &self.root,
            path: String::new(),
        }
    }

    /// What was read, if nothing is wrong with the file.
    pub(super) fn end<T>(self, read: Option<T>) -> Result<T, Mistakes> {
        let mistakes = self.mistakes.into_inner();
        match read {
            Some(read) if mistakes.is_empty() => Ok(read),
            _ => Err(Mistakes::new(self.file, self.text, mistakes)),
        }
    }

    /// The scenario, if nothing is wrong with the file.
    pub(super) fn finish(self, scenario: Option<Scenario>) -> Result<Loaded, Mistakes> {
        let mistakes = self.mistakes.into_inner();
        match scenario {
            Some(scenario) if mistakes.is_empty() => Ok(Loaded {
                scenario,
                warnings: self.warnings.into_inner(),
            }),
            _ => Err(Mistakes::new(self.file, self.text, mistakes)),
        }
    }

    fn place(&self, path: &str) -> Place {
        let first = Place {
            location: Location { line: 1, column: 1 },
            width: 1,
        };
        self.index.get(path).copied().unwrap_or(first)
    }

    /// True if something stands at this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.index.contains_key(path)
    }

    /// Where a value stands.
    pub(super) fn location(&self, at: &At<'_>) -> Location {
        self.place(&at.path).location
    }

    /// Something is wrong with a value.
    pub(super) fn wrong(&self, at: impl AsAt, what: &str, help: &str) {
        let place = self.place(at.path());
        self.mistakes.borrow_mut().push(Mistake {
            place,
            what: what.to_owned(),
            help: help.to_owned(),
        });
    }

    /// Something is wrong with the name of a field.
    fn wrong_name(&self, path: &str, what: String, help: String) {
        let place = self.place(&format!("{path}@"));
        self.mistakes.borrow_mut().push(Mistake { place, what, help });
    }

    /// Something is likely not meant.
    pub(super) fn warn(&self, at: impl AsAt, what: &str) {
        let mistake = Mistake {
            place: self.place(at.path()),
            what: what.to_owned(),
            help: String::new(),
        };
        self.warnings
            .borrow_mut()
            .push(mistake::warning(self.file, self.text, &mistake));
    }

    /// A mapping with any fields.
    pub(super) fn any_map<'v>(&self, at: At<'v>) -> Option<Fields<'v>> {
        match at.value {
            Value::Mapping(mapping) => Some(Fields {
                mapping,
                path: at.path,
            }),
            other => {
                self.wrong(
                    &at,
                    &format!("{} where a mapping should be", kind(other)),
                    "write `field: value`",
                );
                None
            }
        }
    }

    /// A mapping; a field that is not among `known` is a mistake.
    pub(super) fn map<'v>(&self, at: At<'v>, known: &[&str]) -> Option<Fields<'v>> {
        let fields = self.any_map(at)?;
        for (name, value) in fields.all() {
            if !known.contains(&name.as_str()) {
                let what = format!("unknown field `{name}`");
                self.wrong_name(&value.path, what, suggestion(&name, "the fields here", known));
            }
        }
        Some(fields)
    }

    /// The items of a list.
    pub(super) fn list<'v>(&self, at: At<'v>) -> Vec<At<'v>> {
        match at.value {
            Value::Sequence(items) => {
                let item = |(index, value)| At {
                    value,
                    path: format!("{}[{index}]", at.path),
                };
                items.iter().enumerate().map(item).collect()
            }
            other => {
                self.wrong(
                    &at,
                    &format!("{} where a list should be", kind(other)),
                    "write `[item, item]`",
                );
                Vec::new()
            }
        }
    }

    /// A text; a number or a flag is taken as it is written.
    pub(super) fn string(&self, at: At<'_>) -> Option<String> {
        let text = scalar_text(at.value);
        if text.is_none() {
            self.wrong(&at, &format!("{} where a text should be", kind(at.value)), "");
        }
        text
    }

    /// A list of texts; one text stands for a list of one.
    pub(super) fn strings(&self, at: At<'_>) -> Vec<String> {
        if let Value::Sequence(_) = at.value {
            self.list(at)
                .into_iter()
                .filter_map(|item| self.string(item))
                .collect()
        } else {
            self.string(at).into_iter().collect()
        }
    }

    /// True or false.
    pub(super) fn flag(&self, at: At<'_>) -> Option<bool> {
        match at.value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) if text == "true" || text == "false" => Some(text == "true"),
            other => {
                self.wrong(
                    &at,
                    &format!("{} where true or false should be", kind(other)),
                    "write `true` or `false`",
                );
                None
            }
        }
    }

    /// A text that `T` can be read from; `help` says what to write.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, at: At<'_>, help: &str) -> Option<T> {
        let text = self.string(at.clone())?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(&at, &format!("`{text}`: {error}"), help);
                None
            }
        }
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&self, at: At<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(at.clone())?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(
                &at,
                &format!("`{text}` is none of: {}", known.join(", ")),
                &suggestion(&text, "the words here", &known),
            );
        }
        found
    }

    /// A duration with its unit.
    pub(super) fn duration(&self, at: At<'_>) -> Option<Duration> {
        let text = self.string(at.clone())?;
        let parsed = duration(&text);
        if parsed.is_none() {
            self.wrong(
                &at,
                &format!("`{text}` is not a duration"),
                "write a number with its unit: 500ms, 2s, 1.5s, 1m",
            );
        }
        parsed
    }

    /// A duration that Envoy counts in milliseconds: less than one would be none, which is no limit.
    pub(super) fn limit(&self, at: At<'_>) -> Option<Duration> {
        let limit = self.duration(at.clone())?;
        if !is_whole_milliseconds(limit) {
            self.wrong(
                &at,
                "not a whole number of milliseconds",
                "write 1ms or more, or 0s for no limit",
            );
        }
        Some(limit)
    }
}

/// As Envoy counts limits.
pub(super) fn is_whole_milliseconds(limit: Duration) -> bool {
    limit.as_nanos().is_multiple_of(1_000_000)
}

/// A number with its unit.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

/// Anything with a path.
pub(super) trait AsAt {
    fn path(&self) -> &str;
}

impl AsAt for &At<'_> {
    fn path(&self) -> &str {
        &self.path
    }
}

impl AsAt for At<'_> {
    fn path(&self) -> &str {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Some(Duration::from_mins(2)));
        for wrong in ["5", "s", "-1s", "1 s", "1d", "", "1e9999s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn near_names_are_suggested() {
        assert_eq!(nearest("pots", ["name", "ports"]), Some("ports"));
        assert_eq!(nearest("xyz", ["name", "ports"]), None);
    }
}
