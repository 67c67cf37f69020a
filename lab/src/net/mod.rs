//! Network namespaces, links, routes and mounts.

pub mod netns;
