//! The exit codes.
