//! detect.
