//! Interned strings: a name that many objects share is stored once.

use std::sync::Arc;

use foldhash::HashSet;

/// Fewest strings at which a purge is worth its cost.
const PURGE_LEAST: usize = 1024;

#[derive(Debug)]
pub(super) struct Strings {
    known: HashSet<Arc<str>>,
    purge_at: usize,
}

impl Default for Strings {
    fn default() -> Strings {
        Strings { known: HashSet::default(), purge_at: PURGE_LEAST }
    }
}

impl Strings {
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.known.insert(Arc::clone(&new));
        new
    }

    /// Drops strings that are no longer used, once there are twice as many as after the last purge. Calls `before` first, to
    /// release other holders.
    pub(super) fn purge(&mut self, before: impl FnOnce()) {
        if self.known.len() >= self.purge_at {
            before();
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.known.shrink_to(self.known.len() * 2);
            self.purge_at = PURGE_LEAST.max(self.known.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_shared_until_no_longer_used() {
        let mut strings = Strings::default();
        let kept = strings.get("kept");
        assert!(Arc::ptr_eq(&kept, &strings.get("kept")));
        for i in 0..10 * PURGE_LEAST {
            strings.get(&i.to_string());
            strings.purge(|| {});
        }
        assert!(strings.known.len() <= PURGE_LEAST, "{}", strings.known.len());
        assert!(Arc::ptr_eq(&kept, &strings.get("kept")));
    }
}
