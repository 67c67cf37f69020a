//! Network namespaces, links, routes and mounts.

pub mod impair;
pub mod link;
pub mod mount;
pub mod netns;
pub mod segment;
pub mod sysctl;
pub mod tproxy;
