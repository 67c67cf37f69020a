//! The state of the mesh as resources: what each proxy is to have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use prost::{Message, Name};

use super::ip_mode::IpMode;
use super::kind::Kind;
use super::metadata::{Metadata, View};
use super::registry::{Proxy, Registry};
use super::{clusters, endpoints, listeners, names, routes};

/// A resource, encoded. The same content is always the same bytes, so that a change can be told by comparing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resource {
    /// Its name.
    pub(super) name: String,
    /// Its bytes.
    pub(super) any: Any,
}

/// Resources in the order in which they are sent.
pub(super) type Resources = Vec<Arc<Resource>>;

/// One state of the mesh. What is the same for every proxy is encoded once.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The number that the lab gave the state.
    pub(super) generation: u64,
    /// The state itself.
    pub(super) registry: Registry,
    /// When it was taken in.
    pub(super) taken_in: Instant,
    shared: BTreeMap<IpMode, Shared>,
    routes: BTreeMap<String, Arc<Resource>>,
    names: Resources,
}

/// What is the same for every proxy of the same families.
#[derive(Debug)]
struct Shared {
    clusters: Resources,
    endpoints: BTreeMap<String, Arc<Resource>>,
    listeners: Resources,
}

impl Shared {
    fn new(registry: &Registry, mode: IpMode) -> Self {
        Self {
            clusters: clusters::shared(registry, mode)
                .into_iter()
                .map(cluster)
                .collect(),
            endpoints: endpoints::of(registry, mode)
                .into_iter()
                .map(assignment)
                .map(named)
                .collect(),
            listeners: shared_listeners(View {
                registry,
                mode,
                idle_timeout: None,
            }),
        }
    }
}

impl Snapshot {
    /// Encodes a state.
    pub(super) fn new(generation: u64, registry: Registry) -> Self {
        let modes: BTreeSet<IpMode> = registry.proxies.iter().map(IpMode::of).collect();
        Self {
            shared: modes
                .into_iter()
                .map(|mode| (mode, Shared::new(&registry, mode)))
                .collect(),
            routes: routes::of(&registry)
                .into_iter()
                .map(routing)
                .map(named)
                .collect(),
            names: vec![encoded(String::new(), names::table(&registry))],
            taken_in: Instant::now(),
            generation,
            registry,
        }
    }
}

/// What a proxy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// Everything of the type.
    All,
    /// These.
    Only(BTreeSet<String>),
}

/// What one proxy is to have of a state.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    snapshot: Arc<Snapshot>,
    mode: IpMode,
    /// Those of its metadata, if they differ from what other proxies of its families have.
    shared_listeners: Option<Resources>,
    own_clusters: Resources,
    own_listeners: Resources,
}

impl Wanted {
    /// What this proxy is to have.
    pub(super) fn new(snapshot: &Arc<Snapshot>, proxy: &Proxy, metadata: Metadata) -> Self {
        let registry = &snapshot.registry;
        let own_listeners = listeners::own(registry, proxy, metadata);
        let view = View::of(registry, proxy, metadata);
        Self {
            shared_listeners: metadata.idle_timeout.map(|_| shared_listeners(view)),
            own_clusters: clusters::own(registry, proxy).into_iter().map(cluster).collect(),
            own_listeners: own_listeners.into_iter().map(listener).collect(),
            mode: view.mode,
            snapshot: Arc::clone(snapshot),
        }
    }

    /// The state that this follows from.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The resources with these names. Endpoints and routes that do not exist are answered as empty ones, as Istio does:
    /// a proxy waits for every name that it asks for, without limit.
    pub(super) fn resources(&self, kind: Kind, names: &Names) -> Resources {
        let wanted = |resource: &&Arc<Resource>| match names {
            Names::All => true,
            Names::Only(names) => names.contains(&resource.name),
        };
        let both = |shared: Option<&Resources>, own: &Resources| -> Resources {
            let shared = shared.into_iter().flatten();
            shared.chain(own).filter(wanted).map(Arc::clone).collect()
        };
        let shared = self.snapshot.shared.get(&self.mode);
        let nothing = BTreeMap::new();
        match kind {
            Kind::Cds => both(shared.map(|shared| &shared.clusters), &self.own_clusters),
            Kind::Lds => {
                let shared = shared.map(|shared| &shared.listeners);
                both(self.shared_listeners.as_ref().or(shared), &self.own_listeners)
            }
            // One table, and it has no name.
            Kind::Nds => self.snapshot.names.clone(),
            Kind::Eds => {
                let known = shared.map_or(&nothing, |shared| &shared.endpoints);
                by_name(known, names, |name| assignment(endpoints::none(name.to_owned())))
            }
            Kind::Rds => by_name(&self.snapshot.routes, names, |name| {
                routing(routes::none(name.to_owned()))
            }),
        }
    }

    /// The names that a proxy asks for once it has the types that these depend on; empty for types that need no names.
    pub(super) fn needed(&self, kind: Kind) -> impl Iterator<Item = &str> {
        let named = match kind {
            Kind::Cds | Kind::Lds | Kind::Nds => None,
            Kind::Eds => self
                .snapshot
                .shared
                .get(&self.mode)
                .map(|shared| &shared.endpoints),
            Kind::Rds => Some(&self.snapshot.routes),
        };
        named.into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }
}

fn named(resource: Arc<Resource>) -> (String, Arc<Resource>) {
    (resource.name.clone(), resource)
}

fn by_name(
    known: &BTreeMap<String, Arc<Resource>>,
    names: &Names,
    none: impl Fn(&str) -> Arc<Resource>,
) -> Resources {
    match names {
        Names::All => known.values().map(Arc::clone).collect(),
        Names::Only(names) => names
            .iter()
            .map(|name| known.get(name).map_or_else(|| none(name), Arc::clone))
            .collect(),
    }
}

fn cluster(message: Cluster) -> Arc<Resource> {
    encoded(message.name.clone(), message)
}

fn assignment(message: ClusterLoadAssignment) -> Arc<Resource> {
    encoded(message.cluster_name.clone(), message)
}

fn listener(message: Listener) -> Arc<Resource> {
    encoded(message.name.clone(), message)
}

fn shared_listeners(view: View<'_>) -> Resources {
    listeners::shared(view).into_iter().map(listener).collect()
}

fn routing(message: RouteConfiguration) -> Arc<Resource> {
    encoded(message.name.clone(), message)
}

fn encoded<M: Message + Name>(name: String, message: M) -> Arc<Resource> {
    let any = pack_any(message);
    Arc::new(Resource { name, any })
}
