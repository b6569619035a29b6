//! Labels that were chosen: those of pods, and those of namespaces for pods that lack them.

use std::sync::Arc;

use foldhash::HashSet;

use super::strings::Strings;
use super::{Kind, Store};
use crate::flow::LabelValues;
use crate::names::objects::{Labels, Namespace};

/// Maximum length of a label's value in bytes, as Kubernetes has it; a longer one is none.
const VALUE_MOST: usize = 63;

#[derive(Debug)]
pub(super) struct NamespaceEntry {
    pub(super) round: u32,
    labels: Option<LabelValues>,
}

/// Interned values: many pods have the same.
#[derive(Debug, Default)]
pub(super) struct LabelSets(HashSet<LabelValues>);

impl LabelSets {
    /// The values as they are shared; `None` if there is none.
    pub(super) fn get(&mut self, values: &[Option<Arc<str>>]) -> Option<LabelValues> {
        if values.iter().all(Option::is_none) {
            return None;
        }
        if let Some(known) = self.0.get(values) {
            return Some(Arc::clone(known));
        }
        let new: LabelValues = values.into();
        self.0.insert(Arc::clone(&new));
        Some(new)
    }

    /// Drops those that are no longer used.
    pub(super) fn purge(&mut self) {
        self.0.retain(|values| Arc::strong_count(values) > 1);
        self.0.shrink_to(self.0.len() * 2);
    }
}

impl Store {
    pub(super) fn apply_namespace(&mut self, namespace: &Namespace) {
        let (name, labels) = (self.strings.get(&namespace.name), self.labels(&namespace.labels));
        let entry = NamespaceEntry { round: self.rounds[Kind::Namespaces as usize], labels };
        let before = self.namespaces.get(&name).and_then(|known| known.labels.clone());
        if before != entry.labels {
            self.relabelled.insert(Arc::clone(&name));
        }
        self.namespaces.insert(name, entry);
    }

    /// An object's own labels.
    pub(super) fn labels(&mut self, labels: &Labels) -> Option<LabelValues> {
        let Store { strings, label_values, .. } = self;
        let mut value = |text: &Option<String>| interned(strings, text.as_deref());
        let values: Vec<Option<Arc<str>>> = labels.iter().map(&mut value).collect();
        label_values.get(&values)
    }

    /// The labels of a pod in this namespace that has these of its own.
    pub(super) fn labels_in(&mut self, namespace: &str, own: Option<&LabelValues>) -> Option<LabelValues> {
        let of_namespace = self.namespaces.get(namespace).and_then(|namespace| namespace.labels.clone());
        match (own, of_namespace) {
            (None, of_namespace) => of_namespace,
            (Some(own), None) => Some(Arc::clone(own)),
            (Some(own), Some(others)) => {
                let both = own.iter().zip(others.iter()).map(|(own, other)| own.clone().or_else(|| other.clone()));
                self.label_values.get(&both.collect::<Vec<_>>())
            }
        }
    }
}

fn interned(strings: &mut Strings, text: Option<&str>) -> Option<Arc<str>> {
    // A label without a value and no label are the same to Prometheus.
    let text = text.filter(|text| !text.is_empty() && text.len() <= VALUE_MOST)?;
    Some(strings.get(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::objects::Pod;
    use crate::names::samples::{S, TCP, end, pod, store};
    use crate::names::store::Object;
    use crate::names::{Cluster, Index};

    const AT: u64 = 5_000 * S;

    fn texts(values: &[Option<&str>]) -> Labels {
        values.iter().map(|value| value.map(str::to_owned)).collect()
    }

    fn labelled(name: &str, ip: &str, values: &[Option<&str>]) -> Object {
        Object::Pod(Pod { labels: texts(values), ..pod(name, "node-a", &[ip]) })
    }

    fn shop(values: &[Option<&str>]) -> Object {
        Object::Namespace(Namespace { name: "shop".to_owned(), labels: texts(values) })
    }

    fn labels(index: &Index, of: &str) -> Option<LabelValues> {
        index.client(end(&format!("{of}:1")), TCP, AT).party().unwrap().labels.clone()
    }

    fn shown(store: &mut Store, of: &str) -> Vec<String> {
        let index = store.changes().unwrap_or_else(|| store.index.clone());
        let values = labels(&index, of);
        values.iter().flat_map(|values| values.iter()).map(|value| value.as_deref().unwrap_or("-").to_owned()).collect()
    }

    #[test]
    fn a_namespace_stands_in_for_what_a_pod_lacks() {
        let mut store = store(Cluster::Whole);
        store.apply(&labelled("a", "10.244.1.1", &[Some("red"), None]), AT);
        store.apply(&labelled("b", "10.244.1.2", &[None, None]), AT);
        assert_eq!(
            (shown(&mut store, "10.244.1.1"), shown(&mut store, "10.244.1.2").len()),
            (vec!["red".into(), "-".into()], 0)
        );
        store.apply(&shop(&[Some("blue"), Some("eu")]), AT);
        assert_eq!(shown(&mut store, "10.244.1.1"), ["red", "eu"]);
        assert_eq!(shown(&mut store, "10.244.1.2"), ["blue", "eu"]);
        // A pod that comes later, and one that loses its own.
        store.apply(&labelled("c", "10.244.1.3", &[None, Some("us")]), AT);
        store.apply(&labelled("a", "10.244.1.1", &[None, Some("")]), AT);
        assert_eq!(shown(&mut store, "10.244.1.3"), ["blue", "us"]);
        assert_eq!(shown(&mut store, "10.244.1.1"), ["blue", "eu"], "empty is as good as none");
        store.apply(&shop(&[None, Some("eu")]), AT);
        assert_eq!(shown(&mut store, "10.244.1.2"), ["-", "eu"]);
        store.apply(&shop(&[None, None]), AT);
        assert_eq!(shown(&mut store, "10.244.1.2").len(), 0);
        assert_eq!(shown(&mut store, "10.244.1.3"), ["-", "us"]);
        store.apply(&shop(&[None, None]), AT);
        assert!(store.changes().is_none(), "nothing new");
    }

    #[test]
    fn equal_values_are_shared_and_bounded() {
        let mut store = store(Cluster::Whole);
        let long = "x".repeat(VALUE_MOST + 1);
        for (name, ip) in [("a", "10.244.1.1"), ("b", "10.244.1.2")] {
            store.apply(&labelled(name, ip, &[Some("red"), Some(&long)]), AT);
        }
        let index = store.changes().unwrap();
        let [a, b] = ["10.244.1.1", "10.244.1.2"].map(|of| labels(&index, of).unwrap());
        assert!(Arc::ptr_eq(&a, &b) && a[1].is_none());
        assert_eq!(store.label_values.0.len(), 1);
        drop((index, a, b));
        for name in ["a", "b"] {
            store.delete(&labelled(name, "10.244.1.1", &[]), AT);
        }
        store.expire(AT + 1000 * S);
        store.label_values.purge();
        assert_eq!(store.label_values.0.len(), 0);
    }
}
