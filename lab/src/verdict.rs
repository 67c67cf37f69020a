//! Expectation and observation compared. Pure.
