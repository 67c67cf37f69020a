//! What an agent tells whoever started it: JSON lines on a descriptor.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::RawFd;

use serde_json::Value;

/// Where events go; nowhere if nobody asked for them.
#[derive(Debug)]
pub struct Events(Option<RefCell<File>>);

impl Events {
    /// Events to this descriptor.
    pub fn open(descriptor: Option<RawFd>) -> Self {
        Self(descriptor.map(|number| RefCell::new(crate::sys::take_descriptor(number))))
    }

    /// Tells one event, all of it at once.
    pub fn tell(&self, event: &Value) {
        if let Some(file) = &self.0 {
            // Whoever listened may be gone; the data plane is served all the same.
            drop(file.borrow_mut().write_all(format!("{event}\n").as_bytes()));
        }
    }
}
