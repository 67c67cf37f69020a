//! The built-in workload (`lab app`).
