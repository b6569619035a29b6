//! Labels of Kubernetes objects that are chosen to be labels of metrics.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

/// Maximum number of labels: each is a value that series can differ in.
const MOST: usize = 8;
/// Maximum lengths in bytes of a label's prefix and name, as Kubernetes has them.
const PREFIX_MOST: usize = 253;
const NAME_MOST: usize = 63;

/// The chosen labels, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChosenLabels(Arc<[ChosenLabel]>);

/// A label of Kubernetes objects, and its names in metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenLabel {
    /// Its key in Kubernetes: `team`, `app.kubernetes.io/part-of`.
    pub key: String,
    /// The label of senders and clients: `src_label_team`.
    pub source: String,
    /// The label of receivers and servers: `dst_label_team`.
    pub destination: String,
}

impl ChosenLabels {
    /// The labels with these keys; empty ones are ignored.
    ///
    /// # Errors
    ///
    /// A key is none that Kubernetes accepts, two have the same name in metrics, or there are too many.
    pub fn new(keys: &[String]) -> Result<ChosenLabels> {
        let mut chosen: Vec<ChosenLabel> = Vec::new();
        for key in keys.iter().filter(|key| !key.is_empty()) {
            ensure!(is_key(key), "{key:?} is not the key of a label: app.kubernetes.io/part-of, team");
            let name = sanitised(key);
            let source = format!("src_label_{name}");
            if let Some(other) = chosen.iter().find(|other| other.source == source) {
                bail!("{} and {key} would both be {source}", other.key);
            }
            chosen.push(ChosenLabel { key: key.clone(), source, destination: format!("dst_label_{name}") });
        }
        ensure!(chosen.len() <= MOST, "more than {MOST} labels");
        Ok(ChosenLabels(chosen.into()))
    }

    /// They themselves.
    pub fn all(&self) -> &[ChosenLabel] {
        &self.0
    }

    /// Their keys in Kubernetes.
    pub fn keys(&self) -> Vec<String> {
        self.0.iter().map(|chosen| chosen.key.clone()).collect()
    }
}

/// The syntax of Kubernetes: a DNS name and a slash, which may be missing, and a name.
fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let edges = |text: &str| {
        let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        alphanumeric(text.as_bytes().first()) && alphanumeric(text.as_bytes().last())
    };
    let only = |text: &str, more: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
    let is_name = name.len() <= NAME_MOST && edges(name) && only(name, b"-_.");
    is_name && prefix.is_none_or(|prefix| prefix.len() <= PREFIX_MOST && edges(prefix) && only(prefix, b"-."))
}

/// As kube-state-metrics writes it: in snake case, with underscores for what a metric's label may not have.
fn sanitised(key: &str) -> String {
    let mut name = String::new();
    let mut before = ' ';
    for c in key.chars() {
        if c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            name.push('_');
        }
        name.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
        before = c;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(keys: &[&str]) -> Result<ChosenLabels> {
        ChosenLabels::new(&keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_those_of_kube_state_metrics() {
        let keys = ["app.kubernetes.io/part-of", "team", "costCenter", "k8s-App/TEAM_2b"];
        let all = chosen(&keys).unwrap();
        let names: Vec<&str> = all.all().iter().map(|chosen| chosen.source.as_str()).collect();
        assert_eq!(
            names,
            [
                "src_label_app_kubernetes_io_part_of",
                "src_label_team",
                "src_label_cost_center",
                "src_label_k8s_app_team_2b"
            ]
        );
        assert_eq!(all.all()[1].destination, "dst_label_team");
        assert_eq!(
            (all.keys(), chosen(&["", ""]).unwrap()),
            (keys.map(str::to_owned).to_vec(), ChosenLabels::default())
        );
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        for key in ["-a", "a-", "/a", "a/", "a/b/c", "a b", "a/b c", "é", "a_b/c", &"a".repeat(64)] {
            let error = chosen(&["team", key]).unwrap_err().to_string();
            assert!(error.contains("is not the key of a label"), "{key}: {error}");
        }
        for keys in [["a.b", "a/b"], ["team", "Team"], ["team", "team"], ["costCenter", "cost-center"]] {
            let error = chosen(&keys).unwrap_err().to_string();
            assert!(error.contains(keys[0]) && error.contains("would both be src_label_"), "{error}");
        }
        let many: Vec<String> = (0..=MOST).map(|i| format!("l{i}")).collect();
        assert!(ChosenLabels::new(&many).unwrap_err().to_string().contains("more than 8"));
        assert!(ChosenLabels::new(&many[1..]).is_ok());
    }
}
