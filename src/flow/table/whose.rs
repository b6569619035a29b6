//! Finds the flow that a record belongs to.
//!
//! In a large table, no part of a flow is in a cache when its record comes: finding it waits for memory several times
//! in a row. Records that are prepared together wait together.

use std::hint::black_box;
use std::sync::Arc;

use super::{Table, mix};
use crate::bpf::Record;
use crate::flow::{Flow, FlowKey, Identity, Network, Networks};

/// The result of looking up a record's flow.
pub(super) struct Whose {
    /// The identity by the record's own endpoints, if the one that was asked for is not in the table.
    pub(super) its_own: Option<Identity>,
    pub(super) network: Network,
    pub(super) hash: u64,
    /// Index of the flow, if the table has it.
    pub(super) found: Option<u32>,
}

/// The identity and hash of a record's flow.
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    pub(super) identity: Identity,
    pub(super) hash: u64,
}

impl<M: Default> Table<M> {
    /// Looks up a flow before a record is merged into it. This changes nothing, but leaves what it reads in a cache.
    pub fn prepare(&self, identity: Identity) -> Prepared {
        let hash = self.hash(&identity.key);
        let found = self.index.find(mix(hash as u32), |&(h, _)| h == hash as u32);
        if let Some(flow) = found.and_then(|&(_, index)| self.flow(index)) {
            // One field on each of its cache lines.
            black_box((flow.first_ns, flow.sent[0].packets, flow.sent[1].packets, flow.key.protocol));
        } else {
            self.pasts.warm(hash);
        }
        Prepared { identity, hash }
    }

    /// Sets the networks in which addresses are unique.
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
        let found = self.index.find(mix(hash as u32), |&(h, i)| h == hash as u32 && self.flow(i).is_some_and(is_it));
        found.map(|&(_, index)| index)
    }
}
