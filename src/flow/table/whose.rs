//! Finds the flow that a record belongs to.
//!
//! In a large table, no part of a flow is in a cache when its record comes: finding it waits for memory several times
//! in a row. Records that are prepared together wait together: each step is done for all of them before the next one.

use std::sync::Arc;

use super::Table;
use crate::bpf::Record;
use crate::flow::{FlowKey, Identity, Network, Networks};

/// The result of looking up a record's flow.
pub(super) struct Whose {
    /// The identity by the record's own endpoints, if the one that was asked for is not in the table.
    pub(super) its_own: Option<Identity>,
    pub(super) network: Network,
    pub(super) hash: u64,
    /// Index of the flow, if the table has it.
    pub(super) found: Option<u32>,
}

/// The identity and hash of a record's flow, and where the flow was when it was looked for.
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    pub(super) identity: Identity,
    pub(super) hash: u64,
    pub(super) found: Option<u32>,
}

impl<M: Default> Table<M> {
    /// Before a record is merged: where to look for its flow.
    #[inline]
    pub fn prepare(&self, identity: Identity) -> Prepared {
        let hash = self.hash(&identity.key);
        Prepared { identity, hash, found: None }
    }

    /// Looks for the flows of several records. This changes nothing, but brings what will be read into a cache. The
    /// loops are short, so that the processor is ahead in them by many records, and waits for all of those at once.
    pub fn look_for(&self, prepared: &mut [Option<Prepared>]) {
        for Prepared { hash, .. } in prepared.iter().flatten() {
            self.index.warm(*hash as u32);
        }
        for Prepared { hash, found, .. } in prepared.iter_mut().flatten() {
            *found = self.index.find(*hash as u32, |_| true);
        }
        for Prepared { hash, found, .. } in prepared.iter().flatten() {
            match found.and_then(|index| self.flow(index)) {
                Some(flow) => flow.warm(),
                None => self.pasts.warm(*hash),
            }
        }
    }

    /// Sets the networks in which addresses are unique.
    pub fn divide(&mut self, networks: Arc<Networks>) {
        self.networks = networks;
    }

    pub(super) fn whose(&self, prepared: &Prepared, record: &Record) -> Whose {
        let &Prepared { identity, hash, found } = prepared;
        let network = self.networks.of(record);
        // Since the flow was looked for, it may have gone.
        let still = |index: &u32| self.flow(*index).is_some_and(|flow| flow.is(&identity.key) && flow.meets(network));
        let found = found.filter(still).or_else(|| self.find(hash, &identity.key, network));
        if found.is_some() || !identity.only_if_known {
            return Whose { its_own: None, network, hash, found };
        }
        let own = Identity::of(record);
        let hash = self.hash(&own.key);
        Whose { its_own: Some(own), network, hash, found: self.find(hash, &own.key, network) }
    }

    #[inline]
    fn find(&self, hash: u64, key: &FlowKey, network: Network) -> Option<u32> {
        let is_it = |index| self.flow(index).is_some_and(|flow| flow.is(key) && flow.meets(network));
        self.index.find(hash as u32, is_it)
    }
}
