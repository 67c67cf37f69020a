//! The options as people write them: text under the names of the scenario format, in layers, then checked all at once.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::options::{
    Backend, DnsCapture, Group, InboundPorts, Interception, Mode, OutboundRanges, OwnerGroups,
};

/// The names of all options, as the scenario format has them.
pub const NAMES: [&str; 26] = [
    "mode",
    "backend",
    "proxyPort",
    "inboundCapturePort",
    "inboundTunnelPort",
    "proxyUID",
    "proxyGID",
    "includeInboundPorts",
    "excludeInboundPorts",
    "includeOutboundIPRanges",
    "excludeOutboundIPRanges",
    "includeOutboundPorts",
    "excludeOutboundPorts",
    "includeOutboundOwnerGroups",
    "excludeOutboundOwnerGroups",
    "excludeInterfaces",
    "rerouteVirtualInterfaces",
    "redirectDNS",
    "captureAllDNS",
    "dnsServersV4",
    "dnsServersV6",
    "dropInvalid",
    "enableIPv6",
    "tproxyMark",
    "tproxyRouteTable",
    "hostIPv4LoopbackCidr",
];

/// The ports of a sidecar that are never intercepted, in the order in which Istio's injector gives them.
pub const SIDECAR_PORTS: &str = "15090,15021,15020";

/// A wrong option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: `{value}` {reason}")]
pub struct Mistake {
    /// Which.
    pub option: String,
    /// As it was written.
    pub value: String,
    /// What is wrong with it, and what to write.
    pub reason: String,
}

/// Options as text, by name. A name that is absent says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Raw {
    values: BTreeMap<String, String>,
}

impl Raw {
    /// Where a pod's options begin: what Istio's injector asks `istio-init` for.
    pub fn sidecar() -> Self {
        let mut raw = Self::empty();
        for (name, value) in [
            ("includeInboundPorts", "*"),
            ("excludeInboundPorts", SIDECAR_PORTS),
            ("includeOutboundIPRanges", "*"),
        ] {
            raw.set(name, value);
        }
        raw
    }

    /// Where Istio's tool begins without any flag: nothing is captured.
    pub fn empty() -> Self {
        let mut raw = Self::default();
        for (name, value) in [
            ("mode", "REDIRECT"),
            ("backend", "iptables"),
            ("proxyPort", "15001"),
            ("inboundCapturePort", "15006"),
            ("inboundTunnelPort", "15008"),
            ("proxyUID", "1337"),
            ("proxyGID", "1337"),
            ("includeOutboundOwnerGroups", "*"),
            ("tproxyMark", "1337"),
            ("tproxyRouteTable", "133"),
            ("hostIPv4LoopbackCidr", "127.0.0.1/32"),
        ] {
            raw.set(name, value);
        }
        raw
    }

    /// Sets an option; lists are comma lists.
    pub fn set(&mut self, name: &str, value: impl Display) {
        self.values.insert(name.to_owned(), value.to_string());
    }

    /// The value of an option, if it says anything.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// This layer on top of a lower one: what this one does not say, the lower one does.
    #[must_use]
    pub fn or(mut self, lower: &Self) -> Self {
        for (name, value) in &lower.values {
            self.values.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self
    }

    /// The options, or everything that is wrong with them.
    pub fn check(&self) -> Result<Interception, Vec<Mistake>> {
        let mut reader = Reader {
            raw: self,
            mistakes: Vec::new(),
        };
        let interception = reader.read();
        if reader.mistakes.is_empty() {
            Ok(interception)
        } else {
            Err(reader.mistakes)
        }
    }
}

struct Reader<'a> {
    raw: &'a Raw,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn text(&self, option: &str) -> &str {
        self.raw.get(option).unwrap_or_default()
    }

    fn wrong(&mut self, option: &str, value: &str, reason: impl Into<String>) {
        let mistake = Mistake {
            option: option.to_owned(),
            value: value.to_owned(),
            reason: reason.into(),
        };
        self.mistakes.push(mistake);
    }

    /// The items of a comma list. Empty ones are dropped, as Istio does; blanks around one are not.
    fn items(&self, option: &str) -> Vec<String> {
        self.text(option)
            .split(',')
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn list<T>(&mut self, option: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let mut parsed = Vec::new();
        for item in self.items(option) {
            match parse(&item) {
                Ok(value) => parsed.push(value),
                Err(reason) => self.wrong(option, &item, reason),
            }
        }
        parsed
    }

    fn one<T>(&mut self, option: &str, otherwise: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let text = self.text(option).to_owned();
        parse(&text).unwrap_or_else(|reason| {
            self.wrong(option, &text, reason);
            otherwise
        })
    }

    fn read(&mut self) -> Interception {
        let dns = self.dns();
        Interception {
            mode: self.one("mode", Mode::Redirect, mode),
            backend: self.one("backend", Backend::Iptables, backend),
            proxy_port: self.one("proxyPort", 0, port),
            inbound_capture_port: self.one("inboundCapturePort", 0, port),
            inbound_tunnel_port: self.one("inboundTunnelPort", 0, port),
            proxy_uids: self.some_ids("proxyUID"),
            proxy_gids: self.some_ids("proxyGID"),
            inbound_ports: self.inbound_ports(),
            outbound_ranges: self.outbound_ranges(),
            exclude_outbound_ranges: self.excluded_ranges(),
            include_outbound_ports: self.list("includeOutboundPorts", port),
            exclude_outbound_ports: self.list("excludeOutboundPorts", port),
            owner_groups: self.owner_groups(),
            exclude_interfaces: self.list("excludeInterfaces", interface),
            reroute_interfaces: self.list("rerouteVirtualInterfaces", interface),
            dns,
            drop_invalid: self.flag("dropInvalid"),
            ipv6: self.flag("enableIPv6"),
            tproxy_mark: self.one("tproxyMark", 0, number),
            tproxy_route_table: self.one("tproxyRouteTable", 0, number),
            loopback: self.one("hostIPv4LoopbackCidr", Ipv4Net::default(), loopback),
        }
    }

    fn some_ids(&mut self, option: &str) -> Vec<u32> {
        let before = self.mistakes.len();
        let ids = self.list(option, number);
        if ids.is_empty() && self.mistakes.len() == before {
            self.wrong(option, "", "is empty: write at least one number");
        }
        ids
    }

    fn inbound_ports(&mut self) -> InboundPorts {
        let excluded = self.list("excludeInboundPorts", port);
        if self.text("includeInboundPorts") == "*" {
            return InboundPorts::AllBut(excluded);
        }
        InboundPorts::Only(self.list("includeInboundPorts", |item| port_or_star(item)))
    }

    fn outbound_ranges(&mut self) -> OutboundRanges {
        if self.text("includeOutboundIPRanges") == "*" {
            return OutboundRanges::All;
        }
        OutboundRanges::Only(self.list("includeOutboundIPRanges", range))
    }

    fn excluded_ranges(&mut self) -> Vec<IpNet> {
        if self.text("excludeOutboundIPRanges") == "*" {
            self.wrong(
                "excludeOutboundIPRanges",
                "*",
                "cannot be excluded: leave includeOutboundIPRanges empty",
            );
            return Vec::new();
        }
        self.list("excludeOutboundIPRanges", range)
    }

    fn owner_groups(&mut self) -> OwnerGroups {
        let excluded = self.list("excludeOutboundOwnerGroups", group);
        if self.text("includeOutboundOwnerGroups") == "*" {
            return OwnerGroups::AllBut(excluded);
        }
        let included = self.list("includeOutboundOwnerGroups", group);
        if included.len() > 64 {
            let number = included.len().to_string();
            self.wrong(
                "includeOutboundOwnerGroups",
                &number,
                "groups are too many: at most 64 can be included",
            );
        }
        OwnerGroups::Only(included)
    }

    fn dns(&mut self) -> DnsCapture {
        let (redirect, all) = (self.flag("redirectDNS"), self.flag("captureAllDNS"));
        let mut servers = self.list("dnsServersV4", |item| server(item, IpAddr::is_ipv4, "IPv4"));
        servers.extend(self.list("dnsServersV6", |item| server(item, IpAddr::is_ipv6, "IPv6")));
        match (redirect, all) {
            (false, _) => DnsCapture::Off,
            (true, true) => DnsCapture::All,
            // Istio warns and leaves DNS alone where it knows no server.
            (true, false) if servers.is_empty() => DnsCapture::Off,
            (true, false) => DnsCapture::Servers(servers),
        }
    }

    fn flag(&mut self, option: &str) -> bool {
        self.one(option, false, |text| match text {
            "" | "false" => Ok(false),
            "true" => Ok(true),
            _ => Err("is neither `true` nor `false`".to_owned()),
        })
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "REDIRECT" => Ok(Mode::Redirect),
        "TPROXY" => Ok(Mode::Tproxy),
        "NONE" => Ok(Mode::None),
        _ => Err("is not a mode: write REDIRECT, TPROXY or NONE".to_owned()),
    }
}

fn backend(text: &str) -> Result<Backend, String> {
    match text {
        "iptables" => Ok(Backend::Iptables),
        "nftables" => Ok(Backend::Nftables),
        _ => Err("is not a backend: write iptables or nftables".to_owned()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err("is not a port: write a number from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    }
}

fn port_or_star(text: &str) -> Result<u16, String> {
    if text == "*" {
        Err("stands for all ports, so it cannot be in a list: write `*` alone".to_owned())
    } else {
        port(text)
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "is not a number from 0 to 4294967295".to_owned())
}

fn range(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| "is not an address range: write ADDRESS/LENGTH, such as 10.0.0.0/8".to_owned())
}

fn group(text: &str) -> Result<Group, String> {
    if let Ok(id) = text.parse() {
        return Ok(Group::Id(id));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.chars().all(allowed) {
        Ok(Group::Name(text.to_owned()))
    } else {
        Err("is not a group".to_owned())
    }
}

/// Istio's injector: `^[a-zA-Z][a-zA-Z0-9_.-]*$`, at most 15 characters (IFNAMSIZ).
fn interface(text: &str) -> Result<String, String> {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    let rest = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if first && rest && text.len() <= 15 {
        Ok(text.to_owned())
    } else {
        Err("is not an interface name: a letter, then letters, digits, `_`, `.`, `-`; at most 15".to_owned())
    }
}

fn server(text: &str, right: fn(&IpAddr) -> bool, family: &str) -> Result<IpAddr, String> {
    text.parse()
        .ok()
        .filter(right)
        .ok_or_else(|| format!("is not an {family} address"))
}

fn loopback(text: &str) -> Result<Ipv4Net, String> {
    let right = |net: &Ipv4Net| net.addr().is_loopback() && net.prefix_len() >= 8;
    text.parse()
        .ok()
        .filter(right)
        .ok_or_else(|| "is not a range of 127.0.0.0/8 with a length of 8 to 32".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecars_defaults_are_valid() {
        let options = Raw::sidecar().or(&Raw::empty()).check().unwrap();
        assert_eq!(
            options.inbound_ports,
            InboundPorts::AllBut(vec![15090, 15021, 15020])
        );
        assert_eq!(options.outbound_ranges, OutboundRanges::All);
        assert_eq!(options.dns, DnsCapture::Off);
    }

    #[track_caller]
    fn refused(option: &str, value: &str, reason: &str) {
        let mut raw = Raw::default();
        raw.set(option, value);
        let mistakes = raw.or(&Raw::sidecar()).or(&Raw::empty()).check().unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert_eq!(mistakes[0].option, option);
        assert!(mistakes[0].to_string().contains(reason), "{}", mistakes[0]);
    }

    #[test]
    fn mistakes_name_option_value_and_what_to_write() {
        refused("mode", "redirect", "write REDIRECT, TPROXY or NONE");
        refused("proxyPort", "0", "1 to 65535");
        refused("includeInboundPorts", "80,*", "write `*` alone");
        refused("excludeOutboundPorts", "80,x", "`x` is not a port");
        refused("includeOutboundIPRanges", "10.0.0.1", "ADDRESS/LENGTH");
        refused("excludeOutboundIPRanges", "*", "cannot be excluded");
        refused("proxyUID", "", "at least one");
        refused("proxyUID", "istio-proxy", "is not a number");
        refused("excludeInterfaces", "0eth", "is not an interface");
        refused("redirectDNS", "yes", "neither `true` nor `false`");
        refused("hostIPv4LoopbackCidr", "10.0.0.0/8", "127.0.0.0/8");
        refused("dnsServersV4", "::1", "IPv4");
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let mut raw = Raw::default();
        raw.set("mode", "x");
        raw.set("excludeOutboundPorts", "a,b");
        assert_eq!(raw.or(&Raw::empty()).check().unwrap_err().len(), 3);
    }

    #[test]
    fn a_higher_layer_wins() {
        let mut mesh = Raw::default();
        mesh.set("proxyPort", "1");
        mesh.set("proxyUID", "2");
        let mut pod = Raw::default();
        pod.set("proxyPort", "3");
        let options = pod
            .or(&mesh)
            .or(&Raw::sidecar())
            .or(&Raw::empty())
            .check()
            .unwrap();
        assert_eq!((options.proxy_port, options.proxy_uids), (3, vec![2]));
    }
}
