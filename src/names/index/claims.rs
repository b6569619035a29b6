//! The claimants of an address or a port. There is usually one; if there are several, the first by name gets it.

use std::cmp::Ordering;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::flow::Party;

/// All claimants, ordered by name.
#[derive(Debug)]
pub(in crate::names) enum Claims<T> {
    /// A single claimant, which is nearly always the case.
    One(Arc<T>),
    /// Two or more claimants.
    Many(Arc<[Arc<T>]>),
}

impl<T> Clone for Claims<T> {
    fn clone(&self) -> Self {
        match self {
            Claims::One(claimant) => Claims::One(Arc::clone(claimant)),
            Claims::Many(claimants) => Claims::Many(Arc::clone(claimants)),
        }
    }
}

impl<T: Ord> Claims<T> {
    pub(super) fn all(&self) -> &[Arc<T>] {
        match self {
            Claims::One(claimant) => std::slice::from_ref(claimant),
            Claims::Many(claimants) => claimants,
        }
    }

    /// The claimant that gets it.
    pub(super) fn first(&self) -> &Arc<T> {
        match self {
            Claims::One(claimant) => claimant,
            // `Many` holds at least two.
            Claims::Many(claimants) => &claimants[0],
        }
    }

    /// Adds a claimant, even if an equal one exists.
    pub(in crate::names) fn with(this: Option<Claims<T>>, claimant: Arc<T>) -> Option<Claims<T>> {
        let Some(this) = this else { return Some(Claims::One(claimant)) };
        let mut claimants = this.all().to_vec();
        claimants.insert(claimants.partition_point(|other| *other < claimant), claimant);
        Some(Claims::Many(claimants.into()))
    }

    /// Removes one claimant that is equal to `claimant`, if there is one. Returns `None` if none is left.
    pub(in crate::names) fn without(self, claimant: &T) -> Option<Claims<T>> {
        let mut claimants = self.all().to_vec();
        if let Some(index) = claimants.iter().position(|other| **other == *claimant) {
            claimants.remove(index);
        }
        match claimants.len() {
            0 => None,
            1 => claimants.pop().map(Claims::One),
            _ => Some(Claims::Many(claimants.into())),
        }
    }
}

/// A service, identified by its name. Its addresses and ports are the index's keys.
#[derive(Debug)]
pub(in crate::names) struct Service {
    pub(in crate::names) namespace: Arc<str>,
    pub(in crate::names) name: Arc<str>,
    pub(in crate::names) party: Arc<Party>,
}

impl Service {
    pub(in crate::names) fn new(namespace: Arc<str>, name: Arc<str>) -> Service {
        let party =
            Party { namespace: Some(Arc::clone(&namespace)), service: Some(Arc::clone(&name)), ..Party::default() };
        Service { namespace, name, party: Arc::new(party) }
    }

    /// Returns `base`, the party that serves, with the name of this service.
    pub(super) fn served_by(&self, base: &Party) -> Party {
        Party {
            namespace: base.namespace.clone().or_else(|| Some(Arc::clone(&self.namespace))),
            service: Some(Arc::clone(&self.name)),
            ..base.clone()
        }
    }
}

/// A node, identified by its name.
#[derive(Debug)]
pub(in crate::names) struct Node {
    pub(in crate::names) name: Arc<str>,
    pub(in crate::names) party: Arc<Party>,
}

/// An endpoint of a service at a port.
#[derive(Debug)]
pub(in crate::names) struct Endpoint {
    pub(in crate::names) service: Arc<Service>,
    /// The pod that serves, by its name in the service's namespace.
    pub(in crate::names) pod: Option<Arc<str>>,
    latest: ArcSwapOption<Served>,
}

/// An endpoint's party, created on first use because most endpoints of a cluster are never seen on a given node.
#[derive(Debug)]
struct Served {
    base: Arc<Party>,
    party: Arc<Party>,
}

impl Endpoint {
    pub(in crate::names) fn new(service: Arc<Service>, pod: Option<Arc<str>>) -> Endpoint {
        Endpoint { service, pod, latest: ArcSwapOption::empty() }
    }

    /// As [`Service::served_by`], but returns the same `Arc` each time.
    pub(super) fn served_by(&self, base: &Arc<Party>) -> Arc<Party> {
        let latest = self.latest.load();
        if let Some(served) = latest.as_ref().filter(|served| Arc::ptr_eq(&served.base, base)) {
            return Arc::clone(&served.party);
        }
        let party = Arc::new(self.service.served_by(base));
        self.latest.store(Some(Arc::new(Served { base: Arc::clone(base), party: Arc::clone(&party) })));
        party
    }
}

impl Service {
    fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

impl Endpoint {
    fn key(&self) -> (&Service, Option<&str>) {
        (&self.service, self.pod.as_deref())
    }
}

impl Node {
    fn key(&self) -> &str {
        &self.name
    }
}

/// Implements equality and order by name.
macro_rules! ordered {
    ($($kind:ty),*) => {$(
        impl PartialEq for $kind {
            fn eq(&self, other: &Self) -> bool {
                self.key() == other.key()
            }
        }

        impl Eq for $kind {}

        impl PartialOrd for $kind {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $kind {
            fn cmp(&self, other: &Self) -> Ordering {
                self.key().cmp(&other.key())
            }
        }
    )*};
}

ordered!(Service, Endpoint, Node);

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> Arc<Service> {
        Arc::new(Service::new("ns".into(), name.into()))
    }

    #[test]
    fn the_first_by_name_gets_it() {
        let mut claims = None;
        for name in ["web", "api", "www", "api"] {
            claims = Claims::with(claims, service(name));
        }
        let mut order = Vec::new();
        while let Some(these) = claims {
            let first = Arc::clone(these.first());
            order.push(first.name.to_string());
            claims = these.without(&first);
        }
        assert_eq!(order, ["api", "api", "web", "www"]);
    }

    #[test]
    fn removing_an_absent_claimant_changes_nothing() {
        let claims = Claims::with(None, service("web")).unwrap();
        assert_eq!(&*claims.without(&service("api")).unwrap().first().name, "web");
    }

    #[test]
    fn an_endpoint_has_one_party_for_each_pod() {
        let endpoint = Endpoint::new(service("web"), None);
        let base = |pod: &str| Arc::new(Party { pod: Some(pod.into()), ..Party::default() });
        let (a, b) = (base("a"), base("b"));
        let party = endpoint.served_by(&a);
        assert_eq!((party.pod.as_deref(), party.service.as_deref()), (Some("a"), Some("web")));
        assert_eq!(party.namespace.as_deref(), Some("ns"));
        assert!(Arc::ptr_eq(&party, &endpoint.served_by(&a)));
        assert_eq!(endpoint.served_by(&b).pod.as_deref(), Some("b"));
    }
}
