//! Every `unsafe` of this crate: what must happen between fork and exec, and system calls that no crate wraps.
