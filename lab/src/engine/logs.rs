//! What a lab's processes write: events of built-in roles as JSON lines, logs as text with a bounded memory.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::unix::pipe;

use super::lab::Lab;
use crate::observe;
use crate::scenario::model::PodId;

/// Lines kept of each container.
const KEPT: usize = 50;

/// The longest line that is kept whole; a log line may be anything.
const LONGEST: usize = 4096;

/// Which of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The last lines of a container.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    fn push(&mut self, line: &str) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().take(LONGEST).collect());
    }

    /// The last `number` lines.
    pub(super) fn last(&self, number: usize) -> Vec<String> {
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(number))
            .cloned()
            .collect()
    }
}

/// Reads events from a pipe, one JSON document a line, until its end.
pub(super) async fn json_lines<T: DeserializeOwned>(
    pipe: OwnedFd,
    mut take: impl FnMut(T),
) -> io::Result<()> {
    let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(pipe)?).lines();
    while let Some(line) = lines.next_line().await? {
        let event = serde_json::from_str(&line)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("`{line}`: {error}")))?;
        take(event);
    }
    Ok(())
}

/// Reads what a process prints until its end; a sidecar's access-log lines go to the observer.
pub(super) async fn keep(
    lab: &Rc<Lab>,
    id: PodId,
    role: &str,
    stream: Stream,
    output: Option<impl AsyncRead + Unpin>,
) {
    let Some(output) = output else { return };
    let mut lines = BufReader::new(output).split(b'\n');
    loop {
        let line = match lines.next_segment().await {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error) => {
                lab.watched.fail(format!("reading the output of {role}: {error}"));
                return;
            }
        };
        let line = String::from_utf8_lossy(&line);
        if role == "agent" && stream == Stream::Stdout && line.starts_with('{') {
            match lab.observer.add_log_line(&lab.scenario.pod(id).name, &line) {
                Ok(()) => continue,
                // What it would have told stays unobserved.
                Err(observe::Error::AccessLog(error)) if error.is_cut() => {}
                Err(error) => {
                    lab.watched.fail(super::chain(&error));
                    return;
                }
            }
        }
        lab.tails
            .borrow_mut()
            .entry((id, role.to_owned()))
            .or_default()
            .push(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_bounded() {
        let mut tail = Tail::default();
        for number in 0..200 {
            tail.push(&number.to_string());
        }
        assert_eq!(tail.lines.len(), KEPT);
        assert_eq!(tail.last(2), ["198", "199"]);
    }
}
