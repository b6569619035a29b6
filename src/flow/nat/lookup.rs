//! The connection that a record belongs to, by the endpoints that its packets had.

use std::sync::Arc;

use foldhash::HashMap;

use super::{Identity, Nat, News, ROOM, Tracked, Translated, key_of, names};
use crate::bpf::Record;
use crate::flow::FlowKey;

/// Connections with translated addresses, under the keys that somebody looks up: all of them, or those whose records come to one
/// worker.
#[derive(Debug, Default)]
pub struct Lookup(HashMap<FlowKey, Arc<Translated>>);

impl Lookup {
    /// Keys under which there is a connection.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes note of what has changed, under the keys that are looked up here.
    pub fn learn(&mut self, news: &News, is_here: impl Fn(&FlowKey) -> bool) {
        let (News::Begun(translated) | News::Over(translated)) = news;
        let keys = names(translated).map(|ends| key_of(translated, ends).0);
        for key in keys.into_iter().filter(is_here) {
            if let News::Begun(_) = news {
                // An earlier one that had this key goes on under its other key, for as long as records of it may come.
                self.0.insert(key, Arc::clone(translated));
            } else if self.0.get(&key).is_some_and(|there| Arc::ptr_eq(there, translated)) {
                self.0.remove(&key);
            }
        }
        if self.0.capacity() > 4 * self.0.len() + ROOM {
            self.0.shrink_to(2 * self.0.len());
        }
    }

    /// Whose record it is, if its endpoints are those of a connection here.
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
