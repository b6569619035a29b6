//! Applies objects to the store and publishes its index, at most a few times a second however many changes arrive.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::status::{State, StatusCell};
use super::{NamesOptions, Scope};
use crate::names::index::Cluster;
use crate::names::store::{Kind, Object, Store};
use crate::names::{Names, UnixNs};

/// Least time between two published indexes.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);
/// Interval of removing expired pods and of reading the node's addresses.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// kube-proxy assigns all services' addresses to this interface.
const SERVICES_INTERFACE: &str = "kube-ipvs0";

pub(super) struct Keeper {
    inner: RefCell<Inner>,
    changed: Notify,
    names: Arc<Names>,
    status: Arc<StatusCell>,
    /// How much of the cluster is known once everything has been read.
    whole: Cluster,
}

struct Inner {
    store: Store,
    /// Kinds that have not been read yet, by `Kind as usize`.
    missing: [bool; 7],
    started: Instant,
}

impl Keeper {
    pub(super) fn new(options: &NamesOptions, names: Arc<Names>, status: Arc<StatusCell>) -> Keeper {
        let store = Store::new((**names.load()).clone());
        let mut missing = [false; 7];
        options.kinds().into_iter().for_each(|kind| missing[kind as usize] = true);
        let whole = match options.scope {
            Scope::Cluster => Cluster::Whole,
            Scope::Node => Cluster::Node,
        };
        let inner = RefCell::new(Inner { store, missing, started: Instant::now() });
        Keeper { inner, changed: Notify::new(), names, status, whole }
    }

    pub(super) fn begin(&self, kind: Kind) {
        self.inner.borrow_mut().store.begin(kind);
        self.status.set(kind, State::Reading);
    }

    pub(super) fn apply(&self, kind: Kind, objects: &[Object]) {
        let (mut inner, now) = (self.inner.borrow_mut(), now());
        objects.iter().for_each(|object| inner.store.apply(object, now));
        self.mark_changed(kind);
    }

    pub(super) fn delete(&self, kind: Kind, object: &Object) {
        self.inner.borrow_mut().store.delete(object, now());
        self.mark_changed(kind);
    }

    pub(super) fn finish(&self, kind: Kind) {
        self.inner.borrow_mut().store.finish(kind, now());
        self.status.set(kind, State::Read);
        self.mark_read(kind);
        self.mark_changed(kind);
    }

    /// Records that the server is reachable and has nothing new.
    pub(super) fn heard(&self, kind: Kind) {
        self.status.set(kind, State::Watching);
        self.status.heard(kind);
    }

    pub(super) fn failed(&self, kind: Kind, failure: &Failure) {
        self.status.failed(kind, failure);
        if matches!(failure, Failure::Denied(_)) {
            // Do not wait for optional kinds.
            if kind.is_optional() {
                self.mark_read(kind);
            }
            self.changed.notify_one();
        }
    }

    fn mark_changed(&self, kind: Kind) {
        self.status.heard(kind);
        self.changed.notify_one();
    }

    fn mark_read(&self, kind: Kind) {
        let mut inner = self.inner.borrow_mut();
        inner.missing[kind as usize] = false;
        if inner.missing.contains(&true) || self.status.is_synced() {
            return;
        }
        inner.store.set_cluster(self.whole);
        let counts = inner.store.counts();
        let counts: Vec<String> = counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {}", kind.name()))
            .collect();
        log::info!("names: read {} in {:.1} s", counts.join(", "), inner.started.elapsed().as_secs_f64());
    }

    /// Publishes changes until the agent stops.
    pub(super) async fn publish(&self) {
        let mut tidied: Option<Instant> = None;
        loop {
            if tidied.is_none_or(|tidied| tidied.elapsed() >= TIDY_EVERY) {
                tidied = Some(Instant::now());
                let mut inner = self.inner.borrow_mut();
                inner.store.expire(now());
                inner.store.set_local(local_addresses());
            }
            {
                let mut inner = self.inner.borrow_mut();
                if let Some(index) = inner.store.changes() {
                    let is_whole = index.cluster() == self.whole;
                    self.names.publish(index);
                    self.status.published(inner.store.counts(), is_whole);
                }
            }
            sleep(PUBLISH_EVERY).await;
            self.status.log_denied();
            let _ = timeout(TIDY_EVERY, self.changed.notified()).await;
        }
    }
}

fn now() -> UnixNs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Addresses of the node's interfaces that other hosts or pods may see.
fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut ips: Vec<IpAddr> = interfaces
        .filter(|interface| {
            interface.interface_name != SERVICES_INTERFACE && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|ip| match ip {
            IpAddr::V4(ip) => !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        })
        .collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}
