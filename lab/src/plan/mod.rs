//! Addresses, node ids, files and processes of a lab, worked out from a scenario. Pure.
