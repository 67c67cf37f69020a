//! The cluster's DNS server, at 10.96.0.10 on UDP and TCP.
