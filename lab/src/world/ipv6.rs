//! IPv6 in the namespace that the calling thread is in: on without what takes time or makes noise, or off.

use std::path::Path;

use crate::net::sysctl::{self, Error};

/// Whether this kernel has IPv6 at all.
pub fn is_there() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Links that are made from here on have the addresses that they are given, at once, and no other: neighbours are known,
/// so there is no link-local address, no look for duplicates, and nobody asks for routers.
pub fn enable() -> Result<(), Error> {
    // A host may have it that new namespaces begin without.
    let off = "ipv6/conf/all/disable_ipv6";
    if std::fs::read_to_string(format!("/proc/sys/net/{off}")).is_ok_and(|text| text.trim() != "0") {
        sysctl::set(off, "0")?;
    }
    for (name, value) in [
        // IN6_ADDR_GEN_MODE_NONE
        ("ipv6/conf/default/addr_gen_mode", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
    ] {
        sysctl::set(name, value)?;
    }
    Ok(())
}

/// Links that are made from here on have none, or router solicitations would be in every capture.
pub fn leave_out() -> Result<(), Error> {
    if is_there() {
        sysctl::set("ipv6/conf/default/disable_ipv6", "1")
    } else {
        Ok(())
    }
}
