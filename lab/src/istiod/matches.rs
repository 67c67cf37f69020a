//! Conditions of a `VirtualService`'s route, as Envoy says them.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RouteMatch};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};

use super::registry::{Match, StringMatch};
use super::wire::truth;

/// All conditions of a match. The method is the pseudo-header `:method`.
pub(super) fn route_match(wanted: &Match) -> RouteMatch {
    let mut headers: Vec<HeaderMatcher> = wanted
        .headers
        .iter()
        .map(|(name, text)| header(name, text))
        .collect();
    headers.extend(wanted.method.as_ref().map(|method| header(":method", method)));
    RouteMatch {
        path_specifier: Some(path(wanted.uri.as_ref())),
        case_sensitive: Some(truth(true)),
        headers,
        ..RouteMatch::default()
    }
}

/// True if no request fails it (Istio, `IsCatchAllRoute`).
pub(super) fn takes_everything(wanted: &Match) -> bool {
    let any_path = match &wanted.uri {
        None => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/",
        Some(StringMatch::Regex(regex)) => regex == "*",
        Some(StringMatch::Exact(_)) => false,
    };
    any_path && wanted.method.is_none() && wanted.headers.is_empty()
}

fn path(uri: Option<&StringMatch>) -> PathSpecifier {
    match uri {
        None => PathSpecifier::Prefix("/".to_owned()),
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(regex)) => PathSpecifier::SafeRegex(regex_matcher(regex)),
    }
}

fn header(name: &str, text: &StringMatch) -> HeaderMatcher {
    let specifier = match text {
        // `*` is no regular expression: Istio reads it as "the header is there".
        StringMatch::Regex(regex) if regex == "*" => HeaderMatchSpecifier::PresentMatch(true),
        StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Regex(_) => {
            HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(pattern(text)),
                ..StringMatcher::default()
            })
        }
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }
}

fn pattern(text: &StringMatch) -> MatchPattern {
    match text {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex_matcher(text)),
    }
}

fn regex_matcher(regex: &str) -> RegexMatcher {
    RegexMatcher {
        regex: regex.to_owned(),
        ..RegexMatcher::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn uri(uri: StringMatch) -> Match {
        Match {
            uri: Some(uri),
            method: None,
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn only_a_match_without_conditions_takes_everything() {
        assert!(takes_everything(&uri(StringMatch::Prefix("/".to_owned()))));
        assert!(!takes_everything(&uri(StringMatch::Prefix(
            "/reviews".to_owned()
        ))));
        assert!(!takes_everything(&uri(StringMatch::Exact("/".to_owned()))));
        let with_method = Match {
            method: Some(StringMatch::Exact("GET".to_owned())),
            ..uri(StringMatch::Prefix("/".to_owned()))
        };
        assert!(!takes_everything(&with_method));
    }

    #[test]
    fn conditions_are_header_matchers_with_the_method_last() {
        let wanted = Match {
            uri: None,
            method: Some(StringMatch::Exact("GET".to_owned())),
            headers: BTreeMap::from([
                ("end-user".to_owned(), StringMatch::Exact("jason".to_owned())),
                ("cookie".to_owned(), StringMatch::Regex("*".to_owned())),
            ]),
        };
        let made = route_match(&wanted);
        let names: Vec<&str> = made.headers.iter().map(|header| header.name.as_str()).collect();
        assert_eq!(names, ["cookie", "end-user", ":method"]);
        assert_eq!(
            made.headers[0].header_match_specifier,
            Some(HeaderMatchSpecifier::PresentMatch(true))
        );
        assert_eq!(made.path_specifier, Some(PathSpecifier::Prefix("/".to_owned())));
    }
}
