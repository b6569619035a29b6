//! Which flow a record belongs to.

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

impl<M: Default> Table<M> {
    /// From now on, addresses are unique in these networks.
    pub fn divide(&mut self, networks: Arc<Networks>) {
        self.networks = networks;
    }

    pub(super) fn whose(&self, identity: &Identity, record: &Record) -> Whose {
        let network = self.networks.of(record);
        let hash = self.hash(&identity.key);
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
