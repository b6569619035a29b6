//! Which flow a record belongs to.
//!
//! In a large table nothing of a flow is in a cache when its record comes: finding it waits for memory several times, one time after the
//! other. Records that are prepared together wait together.

use std::hint::black_box;
use std::sync::Arc;

use super::{Table, spread};
use crate::bpf::Record;
use crate::flow::{Flow, FlowKey, Identity, Network, Networks};

/// What was found out of a record.
pub(super) struct Whose {
    /// It is the flow that the record itself names, not the one that was asked for.
    pub(super) its_own: Option<Identity>,
    pub(super) network: Network,
    pub(super) hash: u64,
    /// The flow, if it is there.
    pub(super) found: Option<u32>,
}

/// A record's flow, as it is looked up.
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    pub(super) identity: Identity,
    pub(super) hash: u64,
}

impl<M: Default> Table<M> {
    /// Looks up a flow ahead of merging a record of it. It changes nothing: what it reads is in a cache afterwards.
    pub fn prepare(&self, identity: Identity) -> Prepared {
        let hash = self.hash(&identity.key);
        let found = self.index.find(spread(hash as u32), |&(h, _)| h == hash as u32);
        if let Some(flow) = found.and_then(|&(_, index)| self.flow(index)) {
            // A field on each cache line of it.
            black_box((flow.first_ns, flow.sent[0].packets, flow.sent[1].packets, flow.key.protocol));
        } else {
            self.pasts.warm(hash);
        }
        Prepared { identity, hash }
    }

    /// From now on, addresses are unique in these networks.
    pub fn divide(&mut self, networks: Arc<Networks>) {
        self.networks = networks;
    }

    pub(super) fn whose(&self, &Prepared { identity, hash }: &Prepared, record: &Record) -> Whose {
        let network = self.networks.of(record);
        let found = self.find(hash, &identity.key, network);
        if found.is_some() || !identity.only_if_known {
            return Whose { its_own: None, network, hash, found };
        }
        let own = Identity::of(record);
        let hash = self.hash(&own.key);
        Whose { its_own: Some(own), network, hash, found: self.find(hash, &own.key, network) }
    }

    #[inline]
    fn find(&self, hash: u64, key: &FlowKey, network: Network) -> Option<u32> {
        let is_it = |flow: &Flow| flow.key == *key && flow.meets(network);
        let found = self.index.find(spread(hash as u32), |&(h, i)| h == hash as u32 && self.flow(i).is_some_and(is_it));
        found.map(|&(_, index)| index)
    }
}
