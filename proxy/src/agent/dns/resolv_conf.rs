//! /etc/resolv.conf: the servers that the agent passes questions on to, and the first domain of the search list.

use std::net::{IpAddr, SocketAddr};

const PORT: u16 = 53;

/// What the agent needs of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    /// Name servers, in order.
    pub servers: Vec<SocketAddr>,
    /// Domains that a resolver appends, in order.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads it as resolv.conf(5) says: of `search` and `domain` the last one counts, and what is not known is passed
    /// over.
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    read.servers.extend(address.map(|ip| SocketAddr::new(ip, PORT)));
                }
                Some("search") => read.search = words.map(str::to_owned).collect(),
                Some("domain") => read.search = words.take(1).map(str::to_owned).collect(),
                _ => {}
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, servers: &[&str], search: &[&str]) {
        let read = ResolvConf::parse(text);
        let found: Vec<String> = read.servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            (found, read.search.as_slice()),
            (
                servers.iter().map(|it| (*it).to_owned()).collect(),
                search
                    .iter()
                    .map(|it| (*it).to_owned())
                    .collect::<Vec<_>>()
                    .as_slice(),
            )
        );
    }

    #[test]
    fn servers_and_search_are_read_and_the_rest_is_not() {
        check(
            "# a\nnameserver 10.96.0.10\nnameserver\tfd00::a\nnameserver x\nsearch a.b c\noptions ndots:5\n",
            &["10.96.0.10:53", "[fd00::a]:53"],
            &["a.b", "c"],
        );
        check("domain x.y z\n", &[], &["x.y"]);
        check("search a\nsearch b\n", &[], &["b"]);
        check("", &[], &[]);
    }
}
