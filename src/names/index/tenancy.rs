//! Which pod had an address at what time.

use std::sync::Arc;

use super::super::UnixNs;
use super::super::objects::Uid;
use crate::flow::Party;

/// How much the clocks of two nodes may differ.
pub(in crate::names) const SKEW_NS: u64 = 5_000_000_000;
/// Resolution of Kubernetes' timestamps.
const SECOND_NS: u64 = 1_000_000_000;
/// Most pods remembered per address. More than this share an address within minutes only if they fail to start.
const MOST: usize = 8;
/// End time of a tenancy that has not ended.
const OPEN: UnixNs = UnixNs::MAX;

/// A pod that has, or had, an address.
#[derive(Clone, Debug)]
pub(in crate::names) struct Tenant {
    uid: Uid,
    from: UnixNs,
    until: UnixNs,
    party: Arc<Party>,
}

impl Tenant {
    pub(in crate::names) fn new(uid: Uid, from: UnixNs, party: Arc<Party>) -> Tenant {
        Tenant { uid, from, until: OPEN, party }
    }

    pub(in crate::names) fn uid(&self) -> Uid {
        self.uid
    }
}

/// All pods that had an address, the latest first.
#[derive(Clone, Debug)]
pub(in crate::names) enum Tenancy {
    /// A single pod, which is nearly always the case.
    One(Tenant),
    /// Two or more pods.
    Many(Arc<[Tenant]>),
}

impl Tenancy {
    fn tenants(&self) -> &[Tenant] {
        match self {
            Tenancy::One(tenant) => std::slice::from_ref(tenant),
            Tenancy::Many(tenants) => tenants,
        }
    }

    fn of(mut tenants: Vec<Tenant>) -> Option<Tenancy> {
        tenants.truncate(MOST);
        match tenants.len() {
            0 => None,
            1 => tenants.pop().map(Tenancy::One),
            _ => Some(Tenancy::Many(tenants.into())),
        }
    }

    /// Returns the pod that had the address at time `at`. A new pod is reported before it has its address, and an old one after it
    /// has lost it: where their times overlap, the new pod has it.
    pub(super) fn at(&self, at: UnixNs) -> Option<&Arc<Party>> {
        let there = |tenant: &&Tenant| at < tenant.until;
        let tenants = self.tenants();
        let exact = tenants.iter().find(|tenant| tenant.from <= at && there(tenant));
        let nearly = || tenants.iter().rev().find(|tenant| tenant.from <= at.saturating_add(SKEW_NS) && there(tenant));
        exact.or_else(nearly).map(|tenant| &tenant.party)
    }

    /// True if nobody has the address at time `at`, but somebody had it at most so long ago.
    pub(super) fn has_ended(&self, at: UnixNs, within_ns: u64) -> bool {
        let lately = |tenant: &Tenant| tenant.until <= at && at - tenant.until <= within_ns;
        self.at(at).is_none() && self.tenants().iter().any(lately)
    }

    /// Adds this pod, or updates its name if it is known.
    pub(in crate::names) fn with(this: Option<Tenancy>, mut tenant: Tenant) -> Option<Tenancy> {
        let mut tenants = this.map_or_else(Vec::new, |this| this.tenants().to_vec());
        match tenants.iter().position(|other| other.uid == tenant.uid) {
            Some(known) => tenant.from = tenants.remove(known).from,
            None => {
                // It started after the previous pod had ended, but within the same second.
                let ended = tenants.iter().map(|other| other.until).filter(|&until| until != OPEN).max().unwrap_or(0);
                if (tenant.from..tenant.from.saturating_add(SECOND_NS)).contains(&ended) {
                    tenant.from = ended;
                }
            }
        }
        let index = tenants.partition_point(|other| (other.from, other.until) > (tenant.from, tenant.until));
        tenants.insert(index, tenant);
        Tenancy::of(tenants)
    }

    /// Ends the tenancy of this pod at time `until`. Lookups of earlier times find it until the entry is removed.
    pub(in crate::names) fn ended(self, uid: Uid, until: UnixNs) -> Tenancy {
        let end = |tenant: &Tenant| {
            let until = if tenant.uid == uid { until.min(tenant.until) } else { tenant.until };
            Tenant { until, ..tenant.clone() }
        };
        match self {
            Tenancy::One(tenant) => Tenancy::One(end(&tenant)),
            Tenancy::Many(tenants) => Tenancy::Many(tenants.iter().map(end).collect()),
        }
    }

    /// Renames this pod, and keeps the time for which it had the address.
    pub(in crate::names) fn renamed(self, tenant: &Tenant) -> Tenancy {
        let rename = |other: &Tenant| {
            let party = if other.uid == tenant.uid { &tenant.party } else { &other.party };
            Tenant { party: Arc::clone(party), ..other.clone() }
        };
        match self {
            Tenancy::One(other) => Tenancy::One(rename(&other)),
            Tenancy::Many(tenants) => Tenancy::Many(tenants.iter().map(rename).collect()),
        }
    }

    /// Removes this pod, unless it has the address again.
    pub(in crate::names) fn without_ended(self, uid: Uid) -> Option<Tenancy> {
        let stays = |tenant: &&Tenant| tenant.uid != uid || tenant.until == OPEN;
        match &self {
            Tenancy::One(tenant) => stays(&tenant).then_some(self),
            Tenancy::Many(tenants) => Tenancy::of(tenants.iter().filter(stays).cloned().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = SECOND_NS;

    fn tenant(name: &str, from: UnixNs) -> Tenant {
        let party = Party { pod: Some(name.into()), ..Party::default() };
        Tenant::new(Uid::of(name), from, Arc::new(party))
    }

    fn who(tenancy: &Tenancy, at: UnixNs) -> Option<&str> {
        tenancy.at(at)?.pod.as_deref()
    }

    #[test]
    fn an_address_belongs_to_the_pod_that_has_it_at_the_time() {
        let tenancy = Tenancy::with(None, tenant("a", 100 * S)).unwrap();
        assert_eq!(who(&tenancy, 100 * S), Some("a"));
        assert_eq!(who(&tenancy, 98 * S), Some("a"), "the clocks may differ");
        assert_eq!(who(&tenancy, 90 * S), None, "it was not its address yet");

        let tenancy = tenancy.ended(Uid::of("a"), 200 * S);
        assert_eq!(who(&tenancy, 199 * S), Some("a"));
        assert_eq!(who(&tenancy, 200 * S), None, "another pod may have it already");
        let ended = [199, 200, 320, 321].map(|at| tenancy.has_ended(at * S, 120 * S));
        assert_eq!(ended, [false, true, true, false]);

        let tenancy = Tenancy::with(Some(tenancy), tenant("b", 210 * S)).unwrap();
        for (at, name) in [(150, Some("a")), (204, None), (206, Some("b")), (210, Some("b")), (999, Some("b"))] {
            assert_eq!(who(&tenancy, at * S), name, "at {at}");
        }
        let tenancy = tenancy.without_ended(Uid::of("a")).unwrap();
        assert_eq!((who(&tenancy, 150 * S), who(&tenancy, 210 * S)), (None, Some("b")));
        assert!(tenancy.ended(Uid::of("b"), 300 * S).without_ended(Uid::of("b")).is_none());
    }

    #[test]
    fn where_two_overlap_the_newer_one_has_it() {
        let tenancy = Tenancy::with(None, tenant("b", 210 * S)).unwrap();
        let tenancy = Tenancy::with(Some(tenancy), tenant("a", 100 * S)).unwrap().ended(Uid::of("a"), 220 * S);
        for (at, name) in [(150, "a"), (209, "a"), (210, "b"), (230, "b")] {
            assert_eq!(who(&tenancy, at * S), Some(name), "at {at}");
        }
    }

    #[test]
    fn within_a_second_the_end_of_the_older_one_decides() {
        let tenancy = Tenancy::with(None, tenant("a", 100 * S)).unwrap().ended(Uid::of("a"), 200 * S + 700);
        let tenancy = Tenancy::with(Some(tenancy), tenant("b", 200 * S)).unwrap();
        assert_eq!((who(&tenancy, 200 * S + 600), who(&tenancy, 200 * S + 700)), (Some("a"), Some("b")));
        // Renaming it keeps its time.
        let tenancy = Tenancy::with(Some(tenancy), tenant("b", 200 * S)).unwrap();
        assert_eq!((who(&tenancy, 200 * S + 600), who(&tenancy, 200 * S + 700)), (Some("a"), Some("b")));
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let mut tenancy = None;
        for i in 0..100u64 {
            let name = format!("pod-{i}");
            tenancy = Tenancy::with(tenancy, tenant(&name, i * 10 * S));
            tenancy = tenancy.map(|tenancy| tenancy.ended(Uid::of(&name), (i * 10 + 5) * S));
        }
        let tenancy = tenancy.unwrap();
        assert_eq!(tenancy.tenants().len(), MOST);
        assert_eq!(
            (who(&tenancy, 992 * S), who(&tenancy, 922 * S), who(&tenancy, 912 * S)),
            (Some("pod-99"), Some("pod-92"), None)
        );
    }
}
