//! The routes that interception needs beside its rules: `::6` on `lo`, and TPROXY's way back by a mark.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use iptables::options::{InboundPorts, Interception, Mode};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::netns::{self, NetNs};

/// What can go wrong with a route.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace could not be entered.
    #[error("entering the namespace")]
    Enter(
        #[source]
        #[from]
        netns::Error,
    ),
    /// No netlink socket.
    #[error("opening a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// What was asked.
        what: String,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
}

/// Which routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routes {
    /// Packets with this mark go by this table, to `lo`.
    pub marked: Option<(u32, u32)>,
    /// Whether IPv6 has rules.
    pub has_ipv6: bool,
}

impl Routes {
    /// What Istio's `ConfigureRoutes` does for these options.
    pub fn of(options: &Interception) -> Self {
        let captures = !matches!(&options.inbound_ports, InboundPorts::Only(ports) if ports.is_empty());
        Self {
            marked: match options.mode {
                Mode::Tproxy(tproxy) if captures => Some((tproxy.mark.get(), tproxy.route_table.get())),
                Mode::Tproxy(_) | Mode::Redirect | Mode::None => None,
            },
            has_ipv6: options.has_ipv6 && options.mode != Mode::None,
        }
    }

    /// True if there is nothing to add.
    pub const fn is_empty(&self) -> bool {
        self.marked.is_none() && !self.has_ipv6
    }
}

/// Whether something had to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it was so already.
    None,
    /// Something.
    Done,
}

/// Adds what is missing. Needs a running `LocalSet`.
pub async fn add(namespace: &NetNs, routes: Routes) -> Result<Change, Error> {
    let connection = Connection::open(namespace)?;
    let mut change = Change::None;
    if routes.has_ipv6 {
        let source = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
        let request = connection.handle.address().add(LO, source.into(), 128);
        note(
            &mut change,
            request.execute().await,
            libc::EEXIST,
            "adding ::6 to lo",
        )?;
    }
    if let Some((mark, table)) = routes.marked {
        for version in versions(routes) {
            let what = format!("adding a rule for mark {mark} to table {table}");
            // The kernel takes the same rule twice, under another priority.
            if connection.rules(version, mark, table).await?.is_empty() {
                let mut request = connection
                    .handle
                    .rule()
                    .add()
                    .fw_mark(mark)
                    .table_id(table)
                    .action(RuleAction::ToTable);
                request.message_mut().header.family = match version {
                    Version::V4 => AddressFamily::Inet,
                    Version::V6 => AddressFamily::Inet6,
                };
                note(&mut change, request.execute().await, libc::EEXIST, &what)?;
            }
            let request = connection.handle.route().add(route(version, table));
            let what = format!("adding the local route of table {table}");
            note(&mut change, request.execute().await, libc::EEXIST, &what)?;
        }
    }
    Ok(change)
}

/// Removes what [`add`] adds. Needs a running `LocalSet`.
pub async fn remove(namespace: &NetNs, routes: Routes) -> Result<Change, Error> {
    let connection = Connection::open(namespace)?;
    let mut change = Change::None;
    if let Some((mark, table)) = routes.marked {
        for version in versions(routes) {
            for rule in connection.rules(version, mark, table).await? {
                let what = format!("removing the rule for mark {mark}");
                let deleted = connection.handle.rule().del(rule).execute().await;
                note(&mut change, deleted, libc::ENOENT, &what)?;
            }
            let deleted = connection
                .handle
                .route()
                .del(route(version, table))
                .execute()
                .await;
            let what = format!("removing the local route of table {table}");
            note(&mut change, deleted, libc::ESRCH, &what)?;
        }
    }
    if routes.has_ipv6 {
        let source = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
        let addresses = connection
            .handle
            .address()
            .get()
            .set_link_index_filter(LO)
            .set_address_filter(source.into())
            .execute()
            .try_collect::<Vec<_>>()
            .await
            .map_err(refused("listing the addresses of lo"))?;
        for address in addresses {
            let deleted = connection.handle.address().del(address).execute().await;
            note(&mut change, deleted, libc::EADDRNOTAVAIL, "removing ::6 from lo")?;
        }
    }
    Ok(change)
}

#[derive(Debug, Clone, Copy)]
enum Version {
    V4,
    V6,
}

/// Every namespace's `lo` has this index.
const LO: u32 = 1;

struct Connection {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    fn open(namespace: &NetNs) -> Result<Self, Error> {
        let opened = namespace.run(rtnetlink::new_connection)?;
        let (connection, handle, _) = opened.map_err(Error::Socket)?;
        Ok(Self {
            handle,
            task: tokio::task::spawn_local(connection),
        })
    }

    async fn rules(&self, version: Version, mark: u32, table: u32) -> Result<Vec<RuleMessage>, Error> {
        let version = match version {
            Version::V4 => IpVersion::V4,
            Version::V6 => IpVersion::V6,
        };
        let all = self.handle.rule().get(version).execute();
        let all: Vec<RuleMessage> = all.try_collect().await.map_err(refused("listing policy rules"))?;
        let is_it = |rule: &RuleMessage| {
            let has = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
            has(&RuleAttribute::FwMark(mark)) && has(&RuleAttribute::Table(table))
        };
        Ok(all.into_iter().filter(is_it).collect())
    }
}

fn versions(routes: Routes) -> impl Iterator<Item = Version> {
    let v6 = routes.has_ipv6.then_some(Version::V6);
    std::iter::once(Version::V4).chain(v6)
}

fn route(version: Version, table: u32) -> netlink_packet_route::route::RouteMessage {
    match version {
        Version::V4 => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .output_interface(LO)
            .table_id(table)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .build(),
        Version::V6 => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
            .output_interface(LO)
            .table_id(table)
            .kind(RouteType::Local)
            .build(),
    }
}

fn refused(what: &str) -> impl FnOnce(rtnetlink::Error) -> Error {
    let what = what.to_owned();
    move |source| Error::Refused { what, source }
}

/// Takes `as_wanted` (it is there already, it is gone already) for no change.
fn note(
    change: &mut Change,
    result: Result<(), rtnetlink::Error>,
    as_wanted: i32,
    what: &str,
) -> Result<(), Error> {
    match result {
        Ok(()) => {
            *change = Change::Done;
            Ok(())
        }
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -as_wanted => Ok(()),
        Err(source) => Err(refused(what)(source)),
    }
}
