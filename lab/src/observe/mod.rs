//! What the kernel and the proxies reported: trace events, socket owners, access logs, joined into legs.
