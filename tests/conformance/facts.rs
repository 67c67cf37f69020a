//! What a user can see of a step, one named fact after another.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::frames::frames;
use crate::normal::normal;
use crate::views::view;

/// Facts by name; and how long it took.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) named: BTreeMap<String, String>,
    pub(crate) seconds: Option<f64>,
    /// The access-log entries, in a few words each.
    pub(crate) log: Vec<String>,
}

/// Fields of a log entry that say nothing beyond one run.
const OWN: [&str; 4] = [
    "start_time",
    "connection_id",
    "upstream_connection_id",
    "duration",
];

/// The facts of a reported step. `file` is where it is written.
pub(crate) fn of_step(written: &Value, step: &Value, file: &str) -> Facts {
    let mut facts = Facts::default();
    facts.say("outcome", &step["outcome"]);
    facts.say("status", &step["status"]);
    if step["result"] == "unobserved" || step["result"] == "error" {
        facts.say("not observed", &step["message"]);
    }
    // Whether a connection is opened anew depends on all steps before; only where that is the point is it compared.
    let with_reuse = file == "connections";
    let legs = step["path"].as_array().into_iter().flatten();
    let legs: Vec<String> = legs.map(|leg| leg_text(leg, with_reuse)).collect();
    facts.named.insert("path".to_owned(), legs.join("\n"));
    if let Some(answer) = step.get("answer") {
        facts.answer(written, answer);
    }
    if let Some(inner) = step.get("steps") {
        // What is sent at once, or again and again, may meet another endpoint each time.
        facts.named.remove("path");
        if file == "updates-under-load" {
            facts.at_once(written, inner, file);
        } else {
            facts.inner(inner);
        }
    }
    facts
}

fn leg_text(leg: &Value, with_reuse: bool) -> String {
    let text = leg["text"].as_str().unwrap_or_default();
    let text = if with_reuse {
        text
    } else {
        text.trim_end_matches(" (reused)")
    };
    format!("{}: {text}", leg["pod"].as_str().unwrap_or_default())
}

/// A value as a text; null is no fact.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(normal(text)),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Some(normal(&value.to_string()))
        }
    }
}

/// The bytes of a body: they are there in hexadecimal if they are no text.
fn bytes_of(answer: &Value) -> Vec<u8> {
    let Some(hex) = answer["body_hex"].as_str() else {
        return answer["body"].as_str().unwrap_or_default().into();
    };
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).filter_map(byte).collect()
}

/// A body that is a word or two.
const SHORT: usize = 32;

impl Facts {
    fn say(&mut self, name: &str, value: &Value) {
        if let Some(text) = text(value) {
            self.named.insert(name.to_owned(), text);
        }
    }

    fn answer(&mut self, written: &Value, answer: &Value) {
        self.seconds = answer["seconds"].as_f64();
        self.say("error", &answer["error"]);
        self.say("end", &answer["end"]);
        let url = written["request"]["url"].as_str().unwrap_or_default();
        let shown = answer["body"].as_str();
        let viewed = view(url, shown.unwrap_or_default());
        let lines = |headers: &Value| {
            let headers = headers.as_array().into_iter().flatten();
            let lines = headers.map(|pair| {
                let (name, value) = (
                    pair[0].as_str().unwrap_or_default(),
                    pair[1].as_str().unwrap_or_default(),
                );
                // The length of what is not compared whole says nothing.
                let value = if viewed.is_some() && name == "content-length" {
                    "N"
                } else {
                    value
                };
                normal(&format!("{name}: {value}"))
            });
            lines.collect::<Vec<String>>().join("\n")
        };
        self.named.insert("headers".to_owned(), lines(&answer["headers"]));
        self.named
            .insert("trailers".to_owned(), lines(&answer["trailers"]));
        let frames = frames(&written["request"], &bytes_of(answer));
        let body = match (viewed.or(frames), shown) {
            (Some(viewed), _) => viewed,
            (None, Some(body)) => normal(body),
            (None, None) => format!(
                "{} bytes, sha256 {}",
                answer["body_length"], answer["body_sha256"]
            ),
        };
        self.named.insert("body".to_owned(), body);
        let entries = answer["access_log"].as_array().into_iter().flatten();
        for (number, entry) in entries.enumerate() {
            self.entry(number + 1, entry, viewed_is_some(url));
        }
        self.named.insert("log entries".to_owned(), self.log.join("\n"));
    }

    fn entry(&mut self, number: usize, entry: &Value, is_viewed: bool) {
        let pod = entry["pod"].as_str().unwrap_or_default();
        let field = |name: &str| text(&entry["fields"][name]).unwrap_or_else(|| "-".to_owned());
        self.log
            .push(format!("{pod} {} {}", field("method"), field("path")));
        for (name, value) in entry["fields"].as_object().into_iter().flatten() {
            if OWN.contains(&name.as_str()) || (is_viewed && name == "bytes_sent") {
                continue;
            }
            let name = format!("log {number} ({pod}) {name}");
            if name.ends_with("upstream_service_time") && value.is_string() {
                self.named.insert(name, "N".to_owned());
            } else {
                self.say(&name, value);
            }
        }
    }

    /// Of requests that were sent at once, each to an endpoint of its own: all that was seen of each.
    fn at_once(&mut self, written: &Value, steps: &Value, file: &str) {
        let written = written["parallel"].as_array().into_iter().flatten();
        for (written, step) in written.zip(steps.as_array().into_iter().flatten()) {
            if written.get("request").is_none() {
                self.inner(&step["steps"]);
                continue;
            }
            let name = step["name"].as_str().unwrap_or_default();
            let of_step = of_step(written, step, file);
            let named = of_step.named.into_iter();
            self.named
                .extend(named.map(|(fact, value)| (format!("{name}: {fact}"), value)));
            self.seconds = self.seconds.or(of_step.seconds);
        }
    }

    /// Of the steps inside: how each ended, as a set.
    fn inner(&mut self, steps: &Value) {
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        collect(steps, &mut seen);
        for (name, ends) in seen {
            let ends: Vec<String> = ends.into_iter().collect();
            self.named.insert(name, ends.join("\n"));
        }
    }
}

fn viewed_is_some(url: &str) -> bool {
    view(url, "").is_some()
}

fn collect(steps: &Value, seen: &mut BTreeMap<String, BTreeSet<String>>) {
    for step in steps.as_array().into_iter().flatten() {
        if let Some(inner) = step.get("steps") {
            collect(inner, seen);
            continue;
        }
        if step.get("answer").is_none() {
            continue;
        }
        let name = step["name"].as_str().unwrap_or_default();
        let name = name.rsplit("round ").next().unwrap_or_default();
        let name = name.split_once(": ").map_or(name, |(_, name)| name);
        let word = |value: &Value| text(value).unwrap_or_else(|| "-".to_owned());
        // A short body says who answered; a long one has the step's own addresses.
        let body = step["answer"]["body"].as_str().unwrap_or_default();
        let end = format!(
            "{} {} {} {} {}",
            word(&step["outcome"]),
            word(&step["status"]),
            word(&step["flags"]),
            word(&step["answer"]["error"]),
            if body.len() <= SHORT { body } else { "" }
        );
        seen.entry(name.to_owned()).or_default().insert(end);
    }
}
