//! `ipFamilies` and `ipFamilyPolicy`, as core/v1 Service has them: which addresses a pod or a service has, in order.

use serde::{Deserialize, Serialize};

use super::fields::{At, Fields, Reader};

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamily {
    /// `IPv4`.
    V4,
    /// `IPv6`.
    V6,
}

impl IpFamily {
    /// As core/v1 writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// The words of a scenario.
    pub(super) const WORDS: &'static [(&'static str, Self)] =
        &[(Self::V4.name(), Self::V4), (Self::V6.name(), Self::V6)];
}

/// One family or both. The first one's address is the pod's `status.podIP`, the service's `clusterIP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpFamilies {
    first: IpFamily,
    both: bool,
}

impl IpFamilies {
    /// IPv4 alone.
    pub const V4: Self = Self {
        first: IpFamily::V4,
        both: false,
    };

    /// IPv6 alone.
    pub const V6: Self = Self {
        first: IpFamily::V6,
        both: false,
    };

    /// The families, in order.
    pub fn all(self) -> impl Iterator<Item = IpFamily> {
        std::iter::once(self.first).chain(self.both.then(|| self.first.other()))
    }

    /// Whether this is one of them.
    pub fn has(self, family: IpFamily) -> bool {
        self.both || self.first == family
    }

    /// All of these and of those.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self {
            both: self.both || others.both || self.first != others.first,
            ..self
        }
    }

    /// What an error calls them: `IPv4` or `IPv6, IPv4`.
    pub fn names(self) -> String {
        self.all().map(IpFamily::name).collect::<Vec<_>>().join(", ")
    }

    const fn both(self) -> Self {
        Self { both: true, ..self }
    }
}

/// A list of one or two families.
pub(super) fn read(reader: &Reader<'_>, at: At<'_>) -> Option<IpFamilies> {
    let items = reader.list(at.clone());
    let given = items.len();
    let read: Vec<IpFamily> = items
        .into_iter()
        .filter_map(|at| reader.word(at, IpFamily::WORDS))
        .collect();
    match read.as_slice() {
        _ if read.len() < given => None,
        [first] => Some(IpFamilies {
            first: *first,
            both: false,
        }),
        [first, second] if first != second => Some(IpFamilies {
            first: *first,
            both: true,
        }),
        _ => {
            reader.wrong(
                &at,
                "`ipFamilies` has one or two families, each once",
                "write `[IPv4]`, `[IPv6]`, `[IPv4, IPv6]` or `[IPv6, IPv4]`",
            );
            None
        }
    }
}

/// The two fields of a service; what it does not say is the mesh's.
pub(super) fn of_service(reader: &Reader<'_>, fields: &Fields<'_>, mesh: IpFamilies) -> IpFamilies {
    let own = fields.get("ipFamilies").and_then(|at| read(reader, at));
    let families = own.unwrap_or(mesh);
    let Some(at) = fields.get("ipFamilyPolicy") else {
        return families;
    };
    let one = IpFamilies {
        both: false,
        ..families
    };
    let policies = &[
        ("SingleStack", Policy::Single),
        ("PreferDualStack", Policy::Prefer),
        ("RequireDualStack", Policy::Require),
    ];
    match reader.word(at.clone(), policies) {
        Some(Policy::Single) if own.is_some() && families.both => {
            reader.wrong(
                &at,
                "`SingleStack` beside two families",
                "write one family, or `ipFamilyPolicy: PreferDualStack`",
            );
            one
        }
        Some(Policy::Single) => one,
        // As in a cluster: two if the cluster has both.
        Some(Policy::Prefer) if mesh.both => families.both(),
        Some(Policy::Require) => families.both(),
        Some(Policy::Prefer) | None => families,
    }
}

#[derive(Debug, Clone, Copy)]
enum Policy {
    Single,
    Prefer,
    Require,
}
