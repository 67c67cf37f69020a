//! Network namespaces, links, routes and mounts.

pub mod link;
pub mod mount;
pub mod netns;
pub mod sysctl;
pub mod tproxy;
