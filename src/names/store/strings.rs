//! Names that many objects share are kept once.

use std::sync::Arc;

use foldhash::HashSet;

/// Before this many there is nothing to gain.
const FEW: usize = 1024;

#[derive(Debug)]
pub(super) struct Strings {
    known: HashSet<Arc<str>>,
    purge_at: usize,
}

impl Default for Strings {
    fn default() -> Strings {
        Strings { known: HashSet::default(), purge_at: FEW }
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

    /// Lets go of what nobody has any more, when there are twice as many as after the last time. `before`: others do so first.
    pub(super) fn purge(&mut self, before: impl FnOnce()) {
        if self.known.len() >= self.purge_at {
            before();
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.known.shrink_to(self.known.len() * 2);
            self.purge_at = FEW.max(self.known.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_until_nobody_has_it() {
        let mut strings = Strings::default();
        let kept = strings.get("kept");
        assert!(Arc::ptr_eq(&kept, &strings.get("kept")));
        for i in 0..10 * FEW {
            strings.get(&i.to_string());
            strings.purge(|| {});
        }
        assert!(strings.known.len() <= FEW, "{}", strings.known.len());
        assert!(Arc::ptr_eq(&kept, &strings.get("kept")));
    }
}
