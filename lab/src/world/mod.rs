//! The running lab: supervisor, node, pods and their processes.
