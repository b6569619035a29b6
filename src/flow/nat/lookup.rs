//! Finds the connection that a record belongs to, by the endpoints of its packets.

use std::sync::Arc;

use foldhash::HashMap;

use super::{Identity, Nat, News, ROOM, Tracked, Translated, key_of, names};
use crate::bpf::Record;
use crate::flow::FlowKey;

/// Translated connections, under the keys that are looked up here: all of them, or those whose records come to one
/// worker.
#[derive(Debug, Default)]
pub struct Lookup(HashMap<FlowKey, Arc<Translated>>);

impl Lookup {
    /// Number of keys that have a connection.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies a change under those of its keys for which `is_here` is true.
    pub fn learn(&mut self, news: &News, is_here: impl Fn(&FlowKey) -> bool) {
        let (News::Begun(translated) | News::Over(translated)) = news;
        let keys = names(translated).map(|ends| key_of(translated, ends).0);
        for key in keys.into_iter().filter(is_here) {
            if let News::Begun(_) = news {
                // An earlier connection that had this key goes on under its other key, for as long as records of it may
                // arrive.
                self.0.insert(key, Arc::clone(translated));
            } else if self.0.get(&key).is_some_and(|there| Arc::ptr_eq(there, translated)) {
                self.0.remove(&key);
            }
        }
        if self.0.capacity() > 4 * self.0.len() + ROOM {
            self.0.shrink_to(2 * self.0.len());
        }
    }

    /// The flow that the record belongs to, if a connection here has its endpoints.
    pub fn identify(&self, record: &Record) -> Option<Identity> {
        let (seen, sender) = FlowKey::of(record);
        let translated = self.0.get(&seen)?;
        let (key, client) = key_of(translated, translated.dialled);
        let mut names = names(translated).into_iter().map(|ends| key_of(translated, ends));
        let (_, seen_client) = names.find(|(name, _)| *name == seen)?;
        let sender = if sender == seen_client { client } else { 1 - client };
        let [dialled, answered] = [translated.dialled, translated.answered];
        let other = |end: usize| (dialled[end] != answered[end]).then_some(answered[end]);
        let nat = Nat { client: other(0), server: other(1) };
        let tracked = Some(Tracked { client, nat, translated: seen != key });
        Some(Identity { key, sender, tracked, only_if_known: false })
    }
}
