//! The steps of a scenario, in order.
