//! The options as they are written: one text each, merged by priority, then checked all at once.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::{IpNet, Ipv4Net};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::options::{
    Backend, DnsCapture, Group, InboundPorts, Interception, Interface, Mode, NonEmpty, OutboundRanges,
    OwnerGroups, Port, Tproxy,
};

/// An option's value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: `{value}`: {reason}: {instead}")]
pub struct Mistake {
    /// The option's name as written: `excludeInboundPorts`, or an annotation's full name.
    pub option: String,
    /// The part of the value that is wrong.
    pub value: String,
    /// Why.
    pub reason: String,
    /// What to write instead.
    pub instead: String,
}

impl Mistake {
    pub(crate) fn new(option: &str, value: &str, reason: &str, instead: &str) -> Self {
        Self {
            option: option.to_owned(),
            value: value.to_owned(),
            reason: reason.to_owned(),
            instead: instead.to_owned(),
        }
    }
}

/// What an option that nobody wrote is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// What the injector passes: everything captured but 15090, 15021, 15020.
    Injector,
    /// The tool's own defaults: chains, and nothing captured.
    Bare,
}

/// A YAML scalar or list, as text (a list joined by commas).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyScalar)
    }
}

struct AnyScalar;

impl<'de> Visitor<'de> for AnyScalar {
    type Value = Text;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true, false or a list of these")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }
    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }
    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }
    fn visit_bool<E: serde::de::Error>(self, yes: bool) -> Result<Text, E> {
        Ok(Text(yes.to_string()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
        let mut items = Vec::new();
        while let Some(Text(item)) = list.next_element()? {
            if item.contains(',') {
                return Err(A::Error::custom(format!(
                    "`{item}` has a comma inside a list: write one item a line"
                )));
            }
            items.push(item);
        }
        Ok(Text(items.join(",")))
    }
}

macro_rules! options {
    ($($field:ident $name:literal $doc:literal,)*) => {
        /// The options as written; what is not written is `None`.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Raw { $(#[doc = $doc] #[serde(rename = $name)] pub $field: Option<Text>,)* }

        impl Raw {
            /// Every option's name.
            pub const NAMES: &[&str] = &[$($name),*];

            /// `self`, and `lower` where `self` says nothing: `annotations.or(pod).or(mesh)`.
            #[must_use]
            pub fn or(self, lower: Self) -> Self {
                Self { $($field: self.$field.or(lower.$field),)* }
            }

            /// An option by its name.
            pub fn get_mut(&mut self, name: &str) -> Option<&mut Option<Text>> {
                match name { $($name => Some(&mut self.$field),)* _ => None }
            }
        }
    };
}

options! {
    mode "mode" "REDIRECT, TPROXY or NONE.",
    backend "backend" "iptables or nftables.",
    proxy_port "proxyPort" "A port.",
    inbound_capture_port "inboundCapturePort" "A port.",
    inbound_tunnel_port "inboundTunnelPort" "A port.",
    proxy_uid "proxyUID" "User ids.",
    proxy_gid "proxyGID" "Group ids.",
    include_inbound_ports "includeInboundPorts" "`*` or ports.",
    exclude_inbound_ports "excludeInboundPorts" "Ports.",
    include_outbound_ip_ranges "includeOutboundIPRanges" "`*` or CIDRs.",
    exclude_outbound_ip_ranges "excludeOutboundIPRanges" "CIDRs.",
    include_outbound_ports "includeOutboundPorts" "Ports.",
    exclude_outbound_ports "excludeOutboundPorts" "Ports.",
    include_outbound_owner_groups "includeOutboundOwnerGroups" "`*` or groups.",
    exclude_outbound_owner_groups "excludeOutboundOwnerGroups" "Groups.",
    exclude_interfaces "excludeInterfaces" "Interfaces.",
    reroute_virtual_interfaces "rerouteVirtualInterfaces" "Interfaces.",
    redirect_dns "redirectDNS" "true or false.",
    capture_all_dns "captureAllDNS" "true or false.",
    dns_servers_v4 "dnsServersV4" "IPv4 addresses.",
    dns_servers_v6 "dnsServersV6" "IPv6 addresses.",
    drop_invalid "dropInvalid" "true or false.",
    enable_ipv6 "enableIPv6" "true or false.",
    tproxy_mark "tproxyMark" "A mark.",
    tproxy_route_table "tproxyRouteTable" "A routing table.",
    host_ipv4_loopback_cidr "hostIPv4LoopbackCidr" "A CIDR in 127.0.0.0/8.",
    custom_rules "customRules" "A file.",
}

/// The inbound ports that the injector always excludes: Envoy's Prometheus port, readiness, the agent's status port.
pub const ALWAYS_EXCLUDED_INBOUND: &str = "15090,15021,15020";

/// The most included groups that one rule holds: `iptables-restore` 1.8.9 refuses more than 255 words a line, met at 50
/// groups (Istio's own limit of 64 is out of its tools' reach).
const MOST_INCLUDED_GROUPS: usize = 49;

impl Raw {
    /// The valid options, or every mistake. An option that is not written takes `start`'s value.
    pub fn resolve(&self, start: Start) -> Result<Interception, Vec<Mistake>> {
        let mut check = Check { mistakes: Vec::new() };
        let everything = match start {
            Start::Injector => "*",
            Start::Bare => "",
        };
        let excluded = match start {
            Start::Injector => ALWAYS_EXCLUDED_INBOUND,
            Start::Bare => "",
        };
        let mode = check.mode(self);
        let backend = check.backend(text(self.backend.as_ref(), "iptables"));
        let custom_rules = self.custom_rules.as_ref().map(|Text(path)| path.into());
        let inbound_ports = {
            let exclude = check.ports(
                "excludeInboundPorts",
                text(self.exclude_inbound_ports.as_ref(), excluded),
            );
            match text(self.include_inbound_ports.as_ref(), everything) {
                "*" => InboundPorts::AllBut(exclude),
                list => InboundPorts::Only(check.ports("includeInboundPorts", list)),
            }
        };
        let outbound_ranges = match text(self.include_outbound_ip_ranges.as_ref(), everything) {
            "*" => OutboundRanges::All,
            list => OutboundRanges::Only(check.ranges("includeOutboundIPRanges", list)),
        };
        let loopback = check.loopback(text(self.host_ipv4_loopback_cidr.as_ref(), "127.0.0.1/32"));
        let proxy_port = check.port("proxyPort", text(self.proxy_port.as_ref(), "15001"));
        let inbound_capture_port = check.port(
            "inboundCapturePort",
            text(self.inbound_capture_port.as_ref(), "15006"),
        );
        let inbound_tunnel_port = check.port(
            "inboundTunnelPort",
            text(self.inbound_tunnel_port.as_ref(), "15008"),
        );
        let users = check.ids("proxyUID", text(self.proxy_uid.as_ref(), "1337"));
        let groups = check.ids("proxyGID", text(self.proxy_gid.as_ref(), "1337"));
        let exclude_outbound_ranges = check.ranges(
            "excludeOutboundIPRanges",
            text(self.exclude_outbound_ip_ranges.as_ref(), ""),
        );
        let include_outbound_ports = check.ports(
            "includeOutboundPorts",
            text(self.include_outbound_ports.as_ref(), ""),
        );
        let exclude_outbound_ports = check.ports(
            "excludeOutboundPorts",
            text(self.exclude_outbound_ports.as_ref(), ""),
        );
        let outbound_owners = check.owners(self);
        let exclude_interfaces =
            check.interfaces("excludeInterfaces", text(self.exclude_interfaces.as_ref(), ""));
        let reroute_interfaces = check.interfaces(
            "rerouteVirtualInterfaces",
            text(self.reroute_virtual_interfaces.as_ref(), ""),
        );
        let dns = check.dns(self);
        let drops_invalid = check.yes_or_no("dropInvalid", self.drop_invalid.as_ref());
        let has_ipv6 = check.yes_or_no("enableIPv6", self.enable_ipv6.as_ref());
        let options = (|| {
            Some(Interception {
                mode: mode?,
                backend: backend?,
                proxy_port: proxy_port?,
                inbound_capture_port: inbound_capture_port?,
                inbound_tunnel_port: inbound_tunnel_port?,
                proxy_uids: users?,
                proxy_gids: groups?,
                inbound_ports,
                outbound_ranges,
                exclude_outbound_ranges,
                include_outbound_ports,
                exclude_outbound_ports,
                outbound_owners,
                exclude_interfaces,
                reroute_interfaces,
                dns,
                drops_invalid,
                has_ipv6,
                loopback: loopback?,
                custom_rules,
            })
        })();
        match options {
            Some(options) if check.mistakes.is_empty() => Ok(options),
            Some(_) | None => Err(check.mistakes),
        }
    }
}

fn text<'a>(written: Option<&'a Text>, unwritten: &'a str) -> &'a str {
    written.map_or(unwritten, |Text(text)| text.trim())
}

/// The items of a comma list; Istio drops empty ones (`6000,7000,`).
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

struct Check {
    mistakes: Vec<Mistake>,
}

impl Check {
    fn wrong<T>(&mut self, option: &str, value: &str, reason: &str, instead: &str) -> Option<T> {
        self.mistakes.push(Mistake::new(option, value, reason, instead));
        None
    }

    fn list<T>(
        &mut self,
        option: &str,
        list: &str,
        one: impl Fn(&mut Self, &str, &str) -> Option<T>,
    ) -> Vec<T> {
        items(list).filter_map(|item| one(self, option, item)).collect()
    }

    fn mode(&mut self, raw: &Raw) -> Option<Mode> {
        let mark = self.number("tproxyMark", text(raw.tproxy_mark.as_ref(), "1337"));
        let route_table = self.number("tproxyRouteTable", text(raw.tproxy_route_table.as_ref(), "133"));
        match text(raw.mode.as_ref(), "REDIRECT") {
            "REDIRECT" => Some(Mode::Redirect),
            "TPROXY" => Some(Mode::Tproxy(Tproxy {
                mark: mark?,
                route_table: route_table?,
            })),
            "NONE" => Some(Mode::None),
            other => self.wrong("mode", other, "no such mode", "write REDIRECT, TPROXY or NONE"),
        }
    }

    fn backend(&mut self, value: &str) -> Option<Backend> {
        match value {
            "iptables" => Some(Backend::Iptables),
            "nftables" => Some(Backend::Nftables),
            other => self.wrong("backend", other, "no such backend", "write iptables or nftables"),
        }
    }

    fn number(&mut self, option: &str, value: &str) -> Option<NonZeroU32> {
        let parsed = value.parse().ok();
        parsed.or_else(|| {
            self.wrong(
                option,
                value,
                "not a number",
                "write a decimal number from 1 to 4294967295",
            )
        })
    }

    fn port(&mut self, option: &str, value: &str) -> Option<Port> {
        let parsed = value.parse::<NonZeroU16>().ok();
        parsed.or_else(|| self.wrong(option, value, "not a port", "write a number from 1 to 65535"))
    }

    fn ports(&mut self, option: &str, list: &str) -> Vec<Port> {
        self.list(option, list, Self::port)
    }

    fn ids(&mut self, option: &str, list: &str) -> Option<NonEmpty<u32>> {
        let before = self.mistakes.len();
        let ids = self.list(option, list, |check, option, item| {
            let parsed = item.parse().ok();
            parsed.or_else(|| {
                check.wrong(
                    option,
                    item,
                    "not a numeric id",
                    "write a number from 0 to 4294967295",
                )
            })
        });
        match NonEmpty::new(ids) {
            None if self.mistakes.len() == before => {
                self.wrong(option, list, "names nobody", "write at least one id, like 1337")
            }
            ids => ids,
        }
    }

    fn ranges(&mut self, option: &str, list: &str) -> Vec<IpNet> {
        self.list(option, list, |check, option, item| {
            let parsed = item.parse().ok();
            let instead = if option.starts_with("exclude") && item == "*" {
                "write CIDRs, or set includeOutboundIPRanges to \"\" to capture nothing"
            } else {
                "write an address with its length, like 10.0.0.0/8 or 2001:db8::/32"
            };
            parsed.or_else(|| check.wrong(option, item, "not a CIDR", instead))
        })
    }

    fn interfaces(&mut self, option: &str, list: &str) -> Vec<Interface> {
        self.list(option, list, |check, option, item| {
            let instead = "write a letter, then letters, digits, `_`, `.`, `-`, at most 15 characters";
            Interface::parse(item).or_else(|| check.wrong(option, item, "not an interface's name", instead))
        })
    }

    fn owners(&mut self, raw: &Raw) -> OwnerGroups {
        const NAMES: [&str; 2] = ["excludeOutboundOwnerGroups", "includeOutboundOwnerGroups"];
        let exclude = self.list(
            NAMES[0],
            text(raw.exclude_outbound_owner_groups.as_ref(), ""),
            Self::group,
        );
        let include = text(raw.include_outbound_owner_groups.as_ref(), "*");
        if include == "*" {
            return OwnerGroups::AllBut(exclude);
        }
        let groups = self.list(NAMES[1], include, Self::group);
        if groups.len() > MOST_INCLUDED_GROUPS {
            let reason = format!(
                "{} groups, and iptables-restore takes at most {MOST_INCLUDED_GROUPS} in a rule",
                groups.len()
            );
            self.mistakes
                .push(Mistake::new(NAMES[1], include, &reason, "name fewer groups"));
        }
        OwnerGroups::Only(groups)
    }

    fn group(&mut self, option: &str, item: &str) -> Option<Group> {
        if let Ok(id) = item.parse() {
            return Some(Group::Id(id));
        }
        let starts = item.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let rest = item
            .chars()
            .all(|each| each.is_ascii_alphanumeric() || "_.-".contains(each));
        if starts && rest {
            return Some(Group::Name(item.to_owned()));
        }
        self.wrong(
            option,
            item,
            "neither a group's number nor its name",
            "write a number, like 1000, or a name, like `java`",
        )
    }

    fn yes_or_no(&mut self, option: &str, written: Option<&Text>) -> bool {
        match text(written, "false") {
            "true" => true,
            "false" => false,
            other => {
                self.mistakes.push(Mistake::new(
                    option,
                    other,
                    "neither true nor false",
                    "write true or false",
                ));
                false
            }
        }
    }

    fn dns(&mut self, raw: &Raw) -> DnsCapture {
        let redirects = self.yes_or_no("redirectDNS", raw.redirect_dns.as_ref());
        let all = self.yes_or_no("captureAllDNS", raw.capture_all_dns.as_ref());
        let mut servers = self.servers(
            "dnsServersV4",
            text(raw.dns_servers_v4.as_ref(), ""),
            IpAddr::is_ipv4,
        );
        servers.extend(self.servers(
            "dnsServersV6",
            text(raw.dns_servers_v6.as_ref(), ""),
            IpAddr::is_ipv6,
        ));
        match (redirects, all) {
            (false, _) => DnsCapture::Off,
            (true, true) => DnsCapture::All,
            (true, false) => NonEmpty::new(servers).map_or(DnsCapture::NoServers, DnsCapture::Servers),
        }
    }

    fn servers(&mut self, option: &str, list: &str, family: fn(&IpAddr) -> bool) -> Vec<IpAddr> {
        self.list(option, list, |check, option, item| {
            let parsed = item.parse().ok().filter(family);
            parsed.or_else(|| {
                check.wrong(
                    option,
                    item,
                    "not an address of this family",
                    "write 10.96.0.10, or fd00::a in dnsServersV6",
                )
            })
        })
    }

    fn loopback(&mut self, value: &str) -> Option<Ipv4Net> {
        let parsed = value
            .parse::<Ipv4Net>()
            .ok()
            .filter(|net| net.addr().is_loopback() && net.prefix_len() >= 8);
        let instead = "write 127.0.0.1/32, or a mask from 8 to 32";
        parsed.or_else(|| {
            self.wrong(
                "hostIPv4LoopbackCidr",
                value,
                "not an IPv4 loopback network",
                instead,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(yaml: &str) -> Raw {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[track_caller]
    fn check_mistakes(yaml: &str, want: &[(&str, &str)]) {
        let mistakes = raw(yaml).resolve(Start::Injector).unwrap_err();
        let got: Vec<_> = mistakes
            .iter()
            .map(|each| (each.option.as_str(), each.value.as_str()))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        check_mistakes(
            "mode: MAGIC\nproxyPort: 0\nproxyUID: root\nexcludeInboundPorts: 80,http\nhostIPv4LoopbackCidr: 10.0.0.0/8\ndropInvalid: maybe",
            &[
                ("mode", "MAGIC"),
                ("excludeInboundPorts", "http"),
                ("hostIPv4LoopbackCidr", "10.0.0.0/8"),
                ("proxyPort", "0"),
                ("proxyUID", "root"),
                ("dropInvalid", "maybe"),
            ],
        );
    }

    #[test]
    fn each_option_refuses() {
        check_mistakes(
            "excludeOutboundIPRanges: '*'",
            &[("excludeOutboundIPRanges", "*")],
        );
        check_mistakes(
            "includeOutboundIPRanges: 10.0.0.1",
            &[("includeOutboundIPRanges", "10.0.0.1")],
        );
        check_mistakes("dnsServersV4: ['::1']", &[("dnsServersV4", "::1")]);
        check_mistakes("excludeInterfaces: eth0,0bad", &[("excludeInterfaces", "0bad")]);
        check_mistakes("proxyGID: ''", &[("proxyGID", "")]);
        check_mistakes(
            "includeOutboundOwnerGroups: 'a b'",
            &[("includeOutboundOwnerGroups", "a b")],
        );
        check_mistakes("tproxyMark: 0", &[("tproxyMark", "0")]);
    }

    #[test]
    fn unknown_options_are_refused() {
        let refused = serde_yaml::from_str::<Raw>("excludeInboundPort: 1")
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("unknown field `excludeInboundPort`"),
            "{refused}"
        );
    }

    fn layer() -> impl Strategy<Value = Raw> {
        proptest::collection::vec(proptest::option::of("[a-z]{1,3}"), Raw::NAMES.len()).prop_map(|values| {
            let mut raw = Raw::default();
            for (name, value) in Raw::NAMES.iter().zip(values) {
                *raw.get_mut(name).unwrap() = value.map(Text);
            }
            raw
        })
    }

    proptest! {
        #[test]
        fn the_highest_layer_that_speaks_wins(mut annotations in layer(), mut pod in layer(), mut mesh in layer()) {
            let mut merged = annotations.clone().or(pod.clone()).or(mesh.clone());
            for name in Raw::NAMES {
                let [top, middle, low] = [&mut annotations, &mut pod, &mut mesh].map(|raw| raw.get_mut(name).unwrap().clone());
                prop_assert_eq!(merged.get_mut(name).unwrap().clone(), top.or(middle).or(low));
            }
        }
    }
}
