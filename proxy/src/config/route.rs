//! Routes: which virtual host and which route a request takes, and what the route does.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::data_source;
use envoy_types::pb::envoy::config::route::v3 as proto;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use http::HeaderMap;
use regex::Regex;

use super::{Refused, choose_by_weight, limit};

/// A route configuration.
#[derive(Debug)]
pub struct RouteTable {
    /// Its name.
    pub name: String,
    hosts: Vec<VirtualHost>,
    /// Hosts by exact domain.
    exact: HashMap<String, usize>,
    ignore_port: bool,
}

/// A virtual host.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: String,
    domains: Vec<Domain>,
    routes: Vec<Route>,
    attempt_count: bool,
}

#[derive(Debug)]
enum Domain {
    Exact(String),
    /// `*.example.com`: the part behind the star.
    Suffix(String),
    /// `example.*`: the part before the star.
    Prefix(String),
    Any,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    path: PathMatch,
    headers: Vec<HeaderMatch>,
    /// What it does.
    pub action: Action,
}

#[derive(Debug)]
enum PathMatch {
    Prefix(String, Case),
    Exact(String, Case),
    Regex(Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Sensitive,
    Insensitive,
}

#[derive(Debug)]
struct HeaderMatch {
    name: String,
    wanted: Wanted,
    inverted: bool,
}

#[derive(Debug)]
enum Wanted {
    Present(bool),
    Text(TextMatch),
}

#[derive(Debug)]
enum TextMatch {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Sends the request to one of these clusters.
    Forward(Forward),
    /// Answers by itself.
    Direct {
        /// The status.
        status: u16,
        /// The body.
        body: String,
    },
}

/// Where requests go, and how patiently.
#[derive(Debug)]
pub struct Forward {
    /// Clusters and weights; one at least.
    clusters: Vec<(String, u32)>,
    /// The limit of a whole request.
    pub timeout: Option<Duration>,
    /// When and how often it is tried again.
    pub retry: Option<Retry>,
}

/// When and how often a request is tried again.
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of independent conditions, as `retry_on` lists them"
)]
#[derive(Debug, Clone, Default)]
pub struct Retry {
    /// How often beyond the first time.
    pub attempts: u32,
    /// The host could not be connected to.
    pub connect_failure: bool,
    /// The connection ended before a response began.
    pub reset: bool,
    /// The same, if nothing of the request had been sent.
    pub reset_before_request: bool,
    /// These statuses.
    pub statuses: Vec<u16>,
    /// 502, 503, 504.
    pub gateway_error: bool,
    /// Any 5xx.
    pub any_5xx: bool,
    /// Another host than before, if there is one.
    pub other_host: bool,
}

/// Envoy's default for a route that says nothing (`RouteAction.timeout`).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

impl RouteTable {
    /// From configuration.
    pub fn from_proto(config: &proto::RouteConfiguration) -> Result<Self, Refused> {
        let hosts = config
            .virtual_hosts
            .iter()
            .map(|host| virtual_host(&config.name, host));
        let hosts: Vec<VirtualHost> = hosts.collect::<Result<_, _>>()?;
        only_once(&config.name, &hosts)?;
        let domains = hosts.iter().enumerate().flat_map(|(index, host)| {
            let exact = host.domains.iter().filter_map(|domain| match domain {
                Domain::Exact(text) => Some(text.clone()),
                Domain::Suffix(_) | Domain::Prefix(_) | Domain::Any => None,
            });
            exact.map(move |text| (text, index))
        });
        Ok(Self {
            exact: domains.collect(),
            name: config.name.clone(),
            hosts,
            ignore_port: config.ignore_port_in_host_matching,
        })
    }

    /// The virtual host of an authority: exact, then the longest `*suffix`, the longest `prefix*`, then `*`.
    fn host(&self, authority: &str) -> Option<usize> {
        let lower;
        let authority = if authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = authority.to_ascii_lowercase();
            &lower
        } else {
            authority
        };
        let authority = if self.ignore_port {
            without_port(authority)
        } else {
            authority
        };
        if let Some(host) = self.exact.get(authority) {
            return Some(*host);
        }
        let mut best: Option<((u8, usize), usize)> = None;
        for (index, host) in self.hosts.iter().enumerate() {
            for rank in host.domains.iter().filter_map(|domain| domain.rank(authority)) {
                if best.is_none_or(|(known, _)| rank > known) {
                    best = Some((rank, index));
                }
            }
        }
        best.map(|(_, index)| index)
    }

    /// Virtual host and route of a request.
    pub fn find(
        &self,
        authority: &str,
        path: &str,
        method: &str,
        headers: &HeaderMap,
    ) -> Option<(usize, usize)> {
        let host = self.host(authority)?;
        Some((host, self.hosts[host].route(path, method, authority, headers)?))
    }

    /// A route that was found.
    pub fn route(&self, host: usize, route: usize) -> &Route {
        &self.hosts[host].routes[route]
    }

    /// True if upstream requests of this virtual host say how often they were tried.
    pub fn counts_attempts(&self, host: usize) -> bool {
        self.hosts[host].attempt_count
    }
}

fn only_once(table: &str, hosts: &[VirtualHost]) -> Result<(), Refused> {
    let mut seen = std::collections::HashSet::new();
    for domain in hosts.iter().flat_map(|host| &host.domains) {
        let text = domain.text();
        if !seen.insert(text.clone()) {
            let reason =
                format!("Only unique values for domains are permitted. Duplicate entry of domain {text}");
            return Err(Refused::new(table, "virtual_hosts", reason));
        }
    }
    Ok(())
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

impl Domain {
    fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        if text == "*" {
            Self::Any
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.to_owned())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.to_owned())
        } else {
            Self::Exact(text)
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Exact(text) => text.clone(),
            Self::Suffix(text) => format!("*{text}"),
            Self::Prefix(text) => format!("{text}*"),
            Self::Any => "*".to_owned(),
        }
    }

    /// How well it matches: kind, then length; none if not at all. A wildcard stands for at least one character.
    fn rank(&self, host: &str) -> Option<(u8, usize)> {
        match self {
            Self::Exact(text) => (text == host).then_some((4, text.len())),
            Self::Suffix(text) => {
                (host.len() > text.len() && host.ends_with(text)).then_some((3, text.len()))
            }
            Self::Prefix(text) => {
                (host.len() > text.len() && host.starts_with(text)).then_some((2, text.len()))
            }
            Self::Any => Some((1, 0)),
        }
    }
}

impl VirtualHost {
    /// The first route that matches.
    fn route(&self, path: &str, method: &str, authority: &str, headers: &HeaderMap) -> Option<usize> {
        let path = path.split(['?', '#']).next().unwrap_or(path);
        self.routes.iter().position(|route| {
            route.path.matches(path)
                && route
                    .headers
                    .iter()
                    .all(|wanted| wanted.matches(path, method, authority, headers))
        })
    }
}

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Prefix(prefix, Case::Sensitive) => path.starts_with(prefix.as_str()),
            Self::Prefix(prefix, Case::Insensitive) => path
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix)),
            Self::Exact(exact, Case::Sensitive) => path == exact,
            Self::Exact(exact, Case::Insensitive) => path.eq_ignore_ascii_case(exact),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl HeaderMatch {
    fn matches(&self, path: &str, method: &str, authority: &str, headers: &HeaderMap) -> bool {
        let value = match self.name.as_str() {
            ":path" => Some(path),
            ":method" => Some(method),
            ":authority" => Some(authority),
            // The first value of several, as Envoy takes it.
            name => headers.get(name).and_then(|value| value.to_str().ok()),
        };
        let holds = match (&self.wanted, value) {
            (Wanted::Present(present), value) => value.is_some() == *present,
            (Wanted::Text(_), None) => false,
            (Wanted::Text(text), Some(value)) => text.matches(value),
        };
        holds != self.inverted
    }
}

impl TextMatch {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => text == value,
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::Suffix(text) => value.ends_with(text.as_str()),
            Self::Contains(text) => value.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl Forward {
    /// The cluster of this request, by weight.
    pub fn choose(&self) -> &str {
        choose_by_weight(&self.clusters)
    }
}

fn virtual_host(table: &str, host: &proto::VirtualHost) -> Result<VirtualHost, Refused> {
    let default = host.retry_policy.as_ref();
    let routes = host.routes.iter().map(|route| self::route(table, route, default));
    Ok(VirtualHost {
        name: host.name.clone(),
        domains: host.domains.iter().map(|domain| Domain::parse(domain)).collect(),
        routes: routes.collect::<Result<_, _>>()?,
        attempt_count: host.include_request_attempt_count,
    })
}

fn route(table: &str, route: &proto::Route, default: Option<&proto::RetryPolicy>) -> Result<Route, Refused> {
    let field = format!("route {}", route.name);
    let refused = |reason: &str| Refused::new(table, &field, reason);
    let wanted = route.r#match.as_ref().ok_or_else(|| refused("no match"))?;
    let case = match &wanted.case_sensitive {
        Some(value) if !value.value => Case::Insensitive,
        _ => Case::Sensitive,
    };
    let path = match &wanted.path_specifier {
        Some(proto::route_match::PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.clone(), case),
        Some(proto::route_match::PathSpecifier::Path(path)) => PathMatch::Exact(path.clone(), case),
        Some(proto::route_match::PathSpecifier::SafeRegex(regex)) => {
            PathMatch::Regex(self::regex(table, &field, &regex.regex)?)
        }
        Some(_) => return Err(refused("this kind of path match is not supported")),
        None => return Err(refused("no path_specifier")),
    };
    if !wanted.query_parameters.is_empty() {
        return Err(refused("query_parameters are not supported"));
    }
    let headers = wanted
        .headers
        .iter()
        .map(|header| header_match(table, &field, header));
    let action = match &route.action {
        Some(proto::route::Action::Route(action)) => {
            Action::Forward(forward(table, &field, action, default)?)
        }
        Some(proto::route::Action::DirectResponse(direct)) => Action::Direct {
            status: u16::try_from(direct.status).map_err(|_error| refused("a status out of range"))?,
            body: match direct.body.as_ref().and_then(|body| body.specifier.as_ref()) {
                Some(data_source::Specifier::InlineString(text)) => text.clone(),
                Some(data_source::Specifier::InlineBytes(bytes)) => {
                    String::from_utf8_lossy(bytes).into_owned()
                }
                Some(_) => return Err(refused("a body that is not inline is not supported")),
                None => String::new(),
            },
        },
        Some(_) => return Err(refused("this kind of action is not supported")),
        None => return Err(refused("no action")),
    };
    Ok(Route {
        name: route.name.clone(),
        path,
        headers: headers.collect::<Result<_, _>>()?,
        action,
    })
}

fn regex(table: &str, field: &str, text: &str) -> Result<Regex, Refused> {
    Regex::new(&format!("^(?:{text})$"))
        .map_err(|error| Refused::new(table, field, format!("regex `{text}`: {error}")))
}

fn header_match(table: &str, field: &str, header: &proto::HeaderMatcher) -> Result<HeaderMatch, Refused> {
    use proto::header_matcher::HeaderMatchSpecifier as Specifier;
    #[expect(deprecated, reason = "hand-written configurations still use the older forms")]
    let wanted = match &header.header_match_specifier {
        None => Wanted::Present(true),
        Some(Specifier::PresentMatch(present)) => Wanted::Present(*present),
        Some(Specifier::StringMatch(matcher)) => Wanted::Text(text_match(table, field, matcher)?),
        Some(Specifier::ExactMatch(text)) => Wanted::Text(TextMatch::Exact(text.clone())),
        Some(Specifier::PrefixMatch(text)) => Wanted::Text(TextMatch::Prefix(text.clone())),
        Some(Specifier::SuffixMatch(text)) => Wanted::Text(TextMatch::Suffix(text.clone())),
        Some(Specifier::ContainsMatch(text)) => Wanted::Text(TextMatch::Contains(text.clone())),
        Some(Specifier::SafeRegexMatch(matcher)) => {
            Wanted::Text(TextMatch::Regex(regex(table, field, &matcher.regex)?))
        }
        Some(Specifier::RangeMatch(_)) => {
            return Err(Refused::new(table, field, "range_match is not supported"));
        }
    };
    Ok(HeaderMatch {
        name: header.name.to_ascii_lowercase(),
        wanted,
        inverted: header.invert_match,
    })
}

fn text_match(table: &str, field: &str, matcher: &StringMatcher) -> Result<TextMatch, Refused> {
    use string_matcher::MatchPattern;
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(text)) => Ok(TextMatch::Exact(text.clone())),
        Some(MatchPattern::Prefix(text)) => Ok(TextMatch::Prefix(text.clone())),
        Some(MatchPattern::Suffix(text)) => Ok(TextMatch::Suffix(text.clone())),
        Some(MatchPattern::Contains(text)) => Ok(TextMatch::Contains(text.clone())),
        Some(MatchPattern::SafeRegex(matcher)) => Ok(TextMatch::Regex(regex(table, field, &matcher.regex)?)),
        Some(MatchPattern::Custom(_)) | None => Err(Refused::new(
            table,
            field,
            "this kind of string match is not supported",
        )),
    }
}

fn forward(
    table: &str,
    field: &str,
    action: &proto::RouteAction,
    default: Option<&proto::RetryPolicy>,
) -> Result<Forward, Refused> {
    use proto::route_action::ClusterSpecifier;
    let clusters = match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name.clone(), 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .iter()
            .map(|cluster| {
                (
                    cluster.name.clone(),
                    cluster.weight.as_ref().map_or(0, |weight| weight.value),
                )
            })
            .collect(),
        _ => {
            return Err(Refused::new(
                table,
                field,
                "this kind of cluster specifier is not supported",
            ));
        }
    };
    if clusters.is_empty() {
        return Err(Refused::new(table, field, "no cluster"));
    }
    let timeout = if action.timeout.is_some() {
        limit(action.timeout.as_ref())
    } else {
        Some(DEFAULT_TIMEOUT)
    };
    let retry = action.retry_policy.as_ref().or(default).map(retry);
    Ok(Forward {
        clusters,
        timeout,
        retry,
    })
}

fn retry(policy: &proto::RetryPolicy) -> Retry {
    let mut retry = Retry {
        attempts: policy.num_retries.as_ref().map_or(1, |number| number.value),
        other_host: policy
            .retry_host_predicate
            .iter()
            .any(|it| it.name.contains("previous_hosts")),
        ..Retry::default()
    };
    for word in policy.retry_on.split(',').map(str::trim) {
        match word {
            "connect-failure" => retry.connect_failure = true,
            "reset" => (retry.reset, retry.connect_failure) = (true, true),
            "reset-before-request" => (retry.reset_before_request, retry.connect_failure) = (true, true),
            "retriable-status-codes" => {
                retry.statuses.extend(
                    policy
                        .retriable_status_codes
                        .iter()
                        .filter_map(|code| u16::try_from(*code).ok()),
                );
            }
            "gateway-error" => retry.gateway_error = true,
            "5xx" => (retry.any_5xx, retry.reset, retry.connect_failure) = (true, true, true),
            // Envoy also takes numbers here.
            number => retry.statuses.extend(number.parse::<u16>().ok()),
        }
    }
    retry
}

impl Retry {
    /// True if a response with this status is tried again.
    pub fn on_status(&self, status: u16) -> bool {
        self.statuses.contains(&status)
            || (self.gateway_error && (502..=504).contains(&status))
            || (self.any_5xx && (500..=599).contains(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(hosts: &[(&str, &[&str])], ignore_port: bool) -> RouteTable {
        let virtual_hosts = hosts.iter().map(|(name, domains)| proto::VirtualHost {
            name: (*name).to_owned(),
            domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            ..Default::default()
        });
        let config = proto::RouteConfiguration {
            name: "t".to_owned(),
            virtual_hosts: virtual_hosts.collect(),
            ignore_port_in_host_matching: ignore_port,
            ..Default::default()
        };
        RouteTable::from_proto(&config).unwrap()
    }

    #[test]
    fn hosts_match_by_kind_then_length() {
        let table = table(
            &[
                ("any", &["*"]),
                ("exact", &["reviews.default"]),
                ("suffix", &["*.default"]),
                ("longer-suffix", &["*ws.default"]),
                ("prefix", &["reviews.*"]),
            ],
            true,
        );
        let name = |authority: &str| table.host(authority).map(|host| table.hosts[host].name.as_str());
        assert_eq!(name("reviews.default"), Some("exact"));
        assert_eq!(name("REVIEWS.default:9080"), Some("exact"));
        assert_eq!(name("x.default"), Some("suffix"));
        assert_eq!(name("previews.default"), Some("longer-suffix"));
        assert_eq!(name("reviews.com"), Some("prefix"));
        assert_eq!(name("other"), Some("any"));
    }

    #[test]
    fn a_port_counts_unless_it_is_ignored() {
        let table = table(&[("plain", &["a"]), ("with", &["a:80"])], false);
        let name = |authority: &str| table.host(authority).map(|host| table.hosts[host].name.as_str());
        assert_eq!(
            (name("a"), name("a:80"), name("a:81")),
            (Some("plain"), Some("with"), None)
        );
    }

    #[test]
    fn a_domain_may_stand_only_once() {
        let host = |name: &str| proto::VirtualHost {
            name: name.into(),
            domains: vec!["a".into()],
            ..Default::default()
        };
        let config = proto::RouteConfiguration {
            virtual_hosts: vec![host("x"), host("y")],
            ..Default::default()
        };
        assert!(
            RouteTable::from_proto(&config)
                .unwrap_err()
                .to_string()
                .contains("Duplicate entry of domain a")
        );
    }
}
