//! The addresses of a pod or a service: one of either family, or one of each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::scenario::families::{IpFamilies, IpFamily};

/// Addresses, at most one of each family. The first is what is meant where one is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ips {
    first: IpAddr,
    second: Option<IpAddr>,
}

impl Ips {
    /// The address of each of these families.
    pub fn new(families: IpFamilies, v4: Ipv4Addr, v6: Ipv6Addr) -> Self {
        let mut all = families.all().map(|family| match family {
            IpFamily::V4 => IpAddr::V4(v4),
            IpFamily::V6 => IpAddr::V6(v6),
        });
        Self {
            first: all.next().unwrap_or(IpAddr::V4(v4)),
            second: all.next(),
        }
    }

    /// The first one.
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// The other one, if there are two.
    pub const fn second(self) -> Option<IpAddr> {
        self.second
    }

    /// All, in order.
    pub fn all(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.first).chain(self.second)
    }

    /// The IPv4 address.
    pub fn v4(self) -> Option<IpAddr> {
        self.all().find(IpAddr::is_ipv4)
    }

    /// The IPv6 address.
    pub fn v6(self) -> Option<IpAddr> {
        self.all().find(IpAddr::is_ipv6)
    }

    /// Those of the families that `others` have too, in their own order; none if there is none.
    pub fn in_common(self, others: Self) -> Option<Self> {
        let is_in_both = |ip: &IpAddr| others.all().any(|other| other.is_ipv4() == ip.is_ipv4());
        let mut all = self.all().filter(is_in_both);
        Some(Self {
            first: all.next()?,
            second: all.next(),
        })
    }
}

impl From<IpAddr> for Ips {
    fn from(first: IpAddr) -> Self {
        Self { first, second: None }
    }
}

impl From<Ipv4Addr> for Ips {
    fn from(first: Ipv4Addr) -> Self {
        IpAddr::V4(first).into()
    }
}

/// The address as it stands in `text` before `rest`: in brackets in a URL, and where a port follows.
pub(super) fn written(ip: IpAddr, before: &str, rest: &str) -> String {
    match ip {
        IpAddr::V6(ip) if before.ends_with("//") || rest.starts_with(':') => format!("[{ip}]"),
        IpAddr::V4(_) | IpAddr::V6(_) => ip.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ip: &str, before: &str, rest: &str, expected: &str) {
        assert_eq!(written(ip.parse().unwrap(), before, rest), expected);
    }

    #[test]
    fn brackets_stand_where_a_port_or_a_path_follows() {
        check("fd00::1", "http://", ":80/", "[fd00::1]");
        check("fd00::1", "http://", "/", "[fd00::1]");
        check("fd00::1", "", ":3306", "[fd00::1]");
        check("fd00::1", "--to ", " --fast", "fd00::1");
        check("10.0.0.1", "http://", ":80/", "10.0.0.1");
    }

    #[test]
    fn what_two_have_in_common_keeps_the_order_of_the_first() {
        let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        let six_first = Ips::new(IpFamilies::V6.and(IpFamilies::V4), v4, v6);
        let four_first = Ips::new(IpFamilies::V4.and(IpFamilies::V6), v4, v6);
        assert_eq!(six_first.in_common(four_first), Some(six_first));
        let (four, six) = (Ips::from(v4), Ips::from(IpAddr::V6(v6)));
        assert_eq!(six_first.in_common(four), Some(four));
        assert_eq!(six.in_common(four), None);
    }
}
