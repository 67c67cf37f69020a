//! Scenario files: text with spans -> as written -> resolved, or every mistake at once.

pub mod model;
