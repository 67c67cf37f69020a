//! Where lines of access logs go. They are gathered while a thread is busy, and written when it is about to wait: an idle
//! proxy writes at once, a busy one many lines at a time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::rc::Rc;

/// As much is gathered by a thread that never waits.
const MOST: usize = 64 * 1024;

/// Where lines go.
#[derive(Debug)]
pub struct Sink {
    to: To,
    lines: RefCell<Vec<u8>>,
}

#[derive(Debug)]
enum To {
    Stdout,
    Stderr,
    File(File),
}

thread_local! {
    /// The sinks of this thread, by path.
    static SINKS: RefCell<HashMap<String, Rc<Sink>>> = RefCell::default();
}

/// The sink of this path; `/dev/stdout` and `/dev/stderr` are this process's own.
pub fn open(path: &str) -> io::Result<Rc<Sink>> {
    SINKS.with_borrow_mut(|sinks| {
        if let Some(sink) = sinks.get(path) {
            return Ok(Rc::clone(sink));
        }
        let to = match path {
            "/dev/stdout" | "/proc/self/fd/1" => To::Stdout,
            "/dev/stderr" | "/proc/self/fd/2" => To::Stderr,
            _ => To::File(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let sink = Rc::new(Sink {
            to,
            lines: RefCell::default(),
        });
        sinks.insert(path.to_owned(), Rc::clone(&sink));
        Ok(sink)
    })
}

/// Writes what this thread has gathered. To be called whenever it is about to wait.
pub fn flush() {
    SINKS.with_borrow(|sinks| sinks.values().for_each(|sink| sink.flush()));
}

impl Sink {
    /// Adds lines.
    pub(super) fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let gathered = {
            let mut lines = self.lines.borrow_mut();
            write(&mut lines);
            lines.len()
        };
        if gathered > MOST {
            self.flush();
        }
    }

    /// Whole lines, all at once: what another thread writes does not come in between.
    fn flush(&self) {
        let mut lines = self.lines.borrow_mut();
        if lines.is_empty() {
            return;
        }
        let written = match &self.to {
            To::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&lines).and_then(|()| stdout.flush())
            }
            To::Stderr => io::stderr().lock().write_all(&lines),
            To::File(file) => (&*file).write_all(&lines),
        };
        // A log that nobody reads any more is no reason to stop serving.
        drop(written);
        lines.clear();
    }
}
