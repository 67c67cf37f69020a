//! Kubernetes annotations to options, as Istio's injector and its CNI plugin read them.

use std::collections::BTreeMap;

use crate::options::{Mistake, Raw, Start};
use crate::raw::{ALWAYS_EXCLUDED_INBOUND, Text};

/// Annotation and option, less the prefix.
const OURS: &str = "traffic.sidecar.istio.io/";

/// The annotations that set an option, the later of two names for one winning.
const KNOWN: &[(&str, &str)] = &[
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
    (
        "traffic.sidecar.istio.io/kubevirtInterfaces",
        "rerouteVirtualInterfaces",
    ),
    ("istio.io/reroute-virtual-interfaces", "rerouteVirtualInterfaces"),
];

/// The options that a pod's annotations set. Annotations of others are passed over; an unknown one under
/// `traffic.sidecar.istio.io/`, or a value that cannot be, is a mistake under the annotation's own name.
pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Raw, Vec<Mistake>> {
    let (mut raw, mut mistakes) = (Raw::default(), Vec::new());
    for name in annotations.keys().filter(|name| name.starts_with(OURS)) {
        if !KNOWN.iter().any(|(known, _)| known == name) {
            mistakes.push(unknown(name));
        }
    }
    for &(annotation, option) in KNOWN {
        let Some(value) = annotations.get(annotation) else {
            continue;
        };
        let mut alone = Raw::default();
        for each in [&mut raw, &mut alone] {
            if let Some(slot) = each.get_mut(option) {
                *slot = Some(Text(value.clone()));
            }
        }
        if let Err(refused) = alone.resolve(Start::Injector) {
            mistakes.extend(refused.into_iter().map(|mistake| Mistake {
                option: annotation.to_owned(),
                ..mistake
            }));
        }
    }
    if let Some(Text(ports)) = &mut raw.exclude_inbound_ports {
        *ports = once_each(&["15090", "15021", ports, "15020"]);
    }
    if mistakes.is_empty() {
        Ok(raw)
    } else {
        Err(mistakes)
    }
}

fn unknown(name: &str) -> Mistake {
    let nearest = KNOWN
        .iter()
        .map(|(known, _)| (*known, distance(name, known)))
        .min_by_key(|(_, distance)| *distance);
    let instead = match nearest {
        Some((known, distance)) if distance <= 4 => format!("did you mean `{known}`?"),
        Some(_) | None => "write an annotation that Istio knows, or leave it out".to_owned(),
    };
    Mistake::new(name, name, "no such annotation", &instead)
}

/// Levenshtein's distance.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(!a.eq_ignore_ascii_case(&b));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

fn once_each(lists: &[&str]) -> String {
    let mut ports: Vec<&str> = Vec::new();
    for port in lists
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|port| !port.is_empty())
    {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports.join(",")
}

/// What the CNI plugin reads of the sidecar's container.
#[derive(Debug)]
pub struct Container<'a> {
    /// Its environment (`proxyMetadata`).
    pub env: &'a BTreeMap<String, String>,
    /// `runAsUser`.
    pub run_as_user: Option<u32>,
    /// `runAsGroup`.
    pub run_as_group: Option<u32>,
}

impl Container<'_> {
    /// The options that the CNI plugin arrives at (istio `cni/pkg/plugin/redirect.go`): fixed ports in its order,
    /// 15020 excluded outbound too, every query where DNS is captured, an id of 0 or none taken for 1337.
    #[must_use]
    pub fn under_cni(&self, annotated: Raw) -> Raw {
        let written = annotated
            .exclude_inbound_ports
            .as_ref()
            .map_or("15020", |Text(ports)| ports);
        let own: Vec<&str> = written
            .split(',')
            .filter(|port| !ALWAYS_EXCLUDED_INBOUND.split(',').any(|fixed| fixed == *port))
            .collect();
        let id = |id: Option<u32>| Some(Text(id.filter(|&id| id != 0).unwrap_or(1337).to_string()));
        let is_set = |name: &str| {
            Some(Text(
                self.env
                    .get(name)
                    .is_some_and(|value| value == "true")
                    .to_string(),
            ))
        };
        let fixed = Raw {
            exclude_inbound_ports: Some(Text(once_each(&[&own.join(","), "15020", "15021", "15090"]))),
            proxy_uid: id(self.run_as_user),
            proxy_gid: id(self.run_as_group),
            redirect_dns: is_set("ISTIO_META_DNS_CAPTURE"),
            capture_all_dns: is_set("ISTIO_META_DNS_CAPTURE"),
            drop_invalid: is_set("INVALID_DROP"),
            ..Raw::default()
        };
        let star = || Some(Text("*".to_owned()));
        let unwritten = Raw {
            include_inbound_ports: star(),
            include_outbound_ip_ranges: star(),
            exclude_outbound_ports: Some(Text("15020".to_owned())),
            ..Raw::default()
        };
        fixed.or(annotated).or(unwritten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(written: &[(&str, &str)]) -> BTreeMap<String, String> {
        written
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn exclusions_add_to_the_default() {
        let raw = from_annotations(&annotations(&[(
            "traffic.sidecar.istio.io/excludeInboundPorts",
            "80, 15021",
        )]))
        .unwrap();
        assert_eq!(
            raw.exclude_inbound_ports,
            Some(Text("15090,15021,80,15020".to_owned()))
        );
    }

    #[test]
    fn the_new_name_for_rerouted_interfaces_wins() {
        let both = [
            ("istio.io/reroute-virtual-interfaces", "net1"),
            ("traffic.sidecar.istio.io/kubevirtInterfaces", "old0"),
        ];
        assert_eq!(
            from_annotations(&annotations(&both))
                .unwrap()
                .reroute_virtual_interfaces,
            Some(Text("net1".to_owned()))
        );
    }

    #[test]
    fn mistakes_carry_the_annotations_name() {
        let written = [
            ("traffic.sidecar.istio.io/includeInboundPort", "80"),
            ("sidecar.istio.io/interceptionMode", "tproxy"),
            ("other", "x"),
        ];
        let mistakes = from_annotations(&annotations(&written)).unwrap_err();
        assert_eq!(mistakes.len(), 2);
        assert_eq!(
            mistakes[0].instead,
            "did you mean `traffic.sidecar.istio.io/includeInboundPorts`?"
        );
        assert_eq!(mistakes[1].option, "sidecar.istio.io/interceptionMode");
    }
}
