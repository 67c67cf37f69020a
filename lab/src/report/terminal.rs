//! The only module that writes to standard output and standard error. Colours go where a terminal shows them.

use std::io::{IsTerminal as _, Write as _};

/// Writes to standard output; a reader that went away is no error of ours.
pub fn print(text: &str) {
    let mut out = anstream::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Writes to standard output what a program reads, byte for byte: no control character is taken out.
pub fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Writes to standard error.
pub fn complain(text: &str) {
    let mut err = anstream::stderr().lock();
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}

/// A line on standard error that the next one replaces; nothing where standard error is no terminal.
#[derive(Debug)]
pub struct Status {
    shown: bool,
    terminal: bool,
}

impl Status {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self {
            shown: false,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Replaces the line.
    pub fn show(&mut self, text: &str) {
        if self.terminal {
            complain(&format!("\r\x1b[2K{text}"));
            self.shown = true;
        }
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.shown {
            complain("\r\x1b[2K");
            self.shown = false;
        }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}
