//! Istio's pod annotations, as options.

use std::collections::BTreeMap;

use crate::raw::{Mistake, Raw, SIDECAR_PORTS};

/// Annotation and option.
pub const ANNOTATIONS: [(&str, &str); 10] = [
    ("sidecar.istio.io/interceptionMode", "mode"),
    (
        "traffic.sidecar.istio.io/includeInboundPorts",
        "includeInboundPorts",
    ),
    (
        "traffic.sidecar.istio.io/excludeInboundPorts",
        "excludeInboundPorts",
    ),
    (
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
        "includeOutboundIPRanges",
    ),
    (
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        "excludeOutboundIPRanges",
    ),
    (
        "traffic.sidecar.istio.io/includeOutboundPorts",
        "includeOutboundPorts",
    ),
    (
        "traffic.sidecar.istio.io/excludeOutboundPorts",
        "excludeOutboundPorts",
    ),
    ("traffic.sidecar.istio.io/excludeInterfaces", "excludeInterfaces"),
    ("istio.io/reroute-virtual-interfaces", "rerouteVirtualInterfaces"),
    (
        "traffic.sidecar.istio.io/kubevirtInterfaces",
        "rerouteVirtualInterfaces",
    ),
];

/// The options that a pod's annotations ask for. An annotation under `traffic.sidecar.istio.io/` that Istio does not
/// know is a mistake: it would do nothing, silently.
pub fn options(annotations: &BTreeMap<String, String>) -> Result<Raw, Vec<Mistake>> {
    let mut raw = Raw::default();
    let mut mistakes = Vec::new();
    // Later rows are older names: the newer one wins, as in Istio.
    for (annotation, option) in ANNOTATIONS.iter().rev() {
        let Some(value) = annotations.get(*annotation) else {
            continue;
        };
        let items: Vec<&str> = value
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect();
        let value = items.join(",");
        if *option == "excludeInboundPorts" {
            raw.set(option, with_sidecar_ports(&items));
        } else {
            raw.set(option, value);
        }
    }
    for (annotation, value) in annotations {
        let known = ANNOTATIONS.iter().any(|(known, _)| known == annotation);
        if annotation.starts_with("traffic.sidecar.istio.io/") && !known {
            let names = ANNOTATIONS
                .iter()
                .filter(|(name, _)| name.starts_with("traffic."))
                .map(|(name, _)| *name);
            mistakes.push(Mistake {
                option: annotation.clone(),
                value: value.clone(),
                reason: format!(
                    "is for an annotation that Istio does not have; it has {}",
                    names.collect::<Vec<_>>().join(", ")
                ),
            });
        }
    }
    if mistakes.is_empty() {
        Ok(raw)
    } else {
        Err(mistakes)
    }
}

/// What a user excludes is added to what a sidecar always excludes: `15090,15021,<the user's>,15020` (Istio's
/// injection template).
fn with_sidecar_ports(items: &[&str]) -> String {
    let (before, status) = SIDECAR_PORTS.rsplit_once(',').unwrap_or((SIDECAR_PORTS, ""));
    let mut ports: Vec<&str> = before.split(',').collect();
    ports.extend(items);
    if !items.contains(&status) {
        ports.push(status);
    }
    ports.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn excluded_inbound_ports_are_added_to_the_sidecars() {
        let raw = options(&one("traffic.sidecar.istio.io/excludeInboundPorts", "22, 15020")).unwrap();
        assert_eq!(raw.get("excludeInboundPorts"), Some("15090,15021,22,15020"));
        let raw = options(&one("traffic.sidecar.istio.io/excludeInboundPorts", "22")).unwrap();
        assert_eq!(raw.get("excludeInboundPorts"), Some("15090,15021,22,15020"));
    }

    #[test]
    fn an_unknown_annotation_is_a_mistake() {
        let mistakes = options(&one("traffic.sidecar.istio.io/excludeOutboundPort", "22")).unwrap_err();
        assert!(
            mistakes[0].to_string().contains("excludeOutboundPorts"),
            "{}",
            mistakes[0]
        );
        assert!(options(&one("example.com/anything", "22")).is_ok());
    }
}
