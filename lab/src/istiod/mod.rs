//! The control plane: an ADS server that serves Istio's resources.

pub mod registry;
