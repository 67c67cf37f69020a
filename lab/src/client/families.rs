//! The IP families of the pod that this process is in, by its interfaces, as getaddrinfo(3) finds them for
//! `AI_ADDRCONFIG`.

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use crate::scenario::families::IpFamily;

/// The families of which an interface other than `lo` has an address, in the order in which the C library prefers them:
/// IPv6 first (RFC 3484's table, in which a unique local address is like any other).
pub fn of_pod() -> Vec<IpFamily> {
    let all: Vec<InterfaceAddress> = getifaddrs().map(Iterator::collect).unwrap_or_default();
    let has = |family: IpFamily| all.iter().any(|interface| is_of(interface, family));
    let found: Vec<IpFamily> = [IpFamily::V6, IpFamily::V4]
        .into_iter()
        .filter(|family| has(*family))
        .collect();
    if found.is_empty() {
        vec![IpFamily::V4]
    } else {
        found
    }
}

fn is_of(interface: &InterfaceAddress, family: IpFamily) -> bool {
    let Some(address) = &interface.address else {
        return false;
    };
    let is_there = match family {
        IpFamily::V4 => address.as_sockaddr_in().is_some(),
        IpFamily::V6 => address
            .as_sockaddr_in6()
            .is_some_and(|address| !address.ip().is_unicast_link_local()),
    };
    is_there && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
}
