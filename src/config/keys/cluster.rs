//! Keys about the cluster and the names of addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

use super::super::ChosenLabels;
use super::super::value::Given;
use super::{Key, put};
use crate::names::{Enabled, NamedNetwork, Scope};

pub(super) static KEYS: &[Key] = &[
    Key {
        path: "kubernetes.enabled",
        short: None,
        about: "name addresses after a cluster's objects; auto: in a pod, or if a kubeconfig is given; on: a cluster is required",
        valid: "auto, on or off",
        live: false,
        set: |config, given| {
            config.kubernetes = match given.text()? {
                "auto" => Enabled::Auto,
                // Some YAML writers turn an unquoted "on" into true.
                _ => match given.switch() {
                    Ok(true) => Enabled::On,
                    Ok(false) => Enabled::Off,
                    Err(_) => bail!("unknown"),
                },
            };
            Ok(())
        },
        get: |config| {
            let name = match config.kubernetes {
                Enabled::Auto => "auto",
                Enabled::On => "on",
                Enabled::Off => "off",
            };
            name.to_owned()
        },
    },
    Key {
        path: "kubernetes.kubeconfig",
        short: None,
        about: "path of the cluster's kubeconfig; none: use the pod's service account, else $KUBECONFIG",
        valid: "a path, or none",
        live: false,
        set: |config, given| {
            config.kubeconfig = match given.text()? {
                "none" => None,
                path => Some(path.into()),
            };
            Ok(())
        },
        get: |config| config.kubeconfig.as_ref().map_or("none".to_owned(), |path| path.display().to_string()),
    },
    Key {
        path: "kubernetes.scope",
        short: None,
        about: "which pods get names: all of the cluster, or only this node's, for very large clusters",
        valid: "cluster or node",
        live: false,
        set: |config, given| {
            config.scope = match given.text()? {
                "cluster" => Scope::Cluster,
                "node" => Scope::Node,
                _ => bail!("unknown"),
            };
            Ok(())
        },
        get: |config| if config.scope == Scope::Node { "node" } else { "cluster" }.to_owned(),
    },
    Key {
        path: "kubernetes.labels",
        short: None,
        about: "labels of pods, or else of their namespaces, that are labels of metrics too: team is src_label_team and dst_label_team",
        valid: "at most 8 keys of labels: app.kubernetes.io/part-of, team",
        live: false,
        set: |config, given| put(&mut config.chosen, ChosenLabels::new(&given.list())),
        get: |config| Given::List(config.chosen.keys()).to_string(),
    },
    Key {
        path: NETWORKS,
        short: None,
        about: "names of networks outside of the cluster; the most specific network applies",
        valid: "networks and their names: {10.1.0.0/16: corp} in the file, 10.1.0.0/16=corp,10.2.0.0/16=lab elsewhere",
        live: false,
        set: |config, given| {
            let texts = given.list().into_iter().map(|text| text.trim_matches(['{', '}', ' ']).to_owned());
            let texts = texts.filter(|text| !text.is_empty());
            let networks = texts.map(|text| network(&text)).collect::<Result<Vec<_>>>()?;
            let mut known = BTreeSet::new();
            for one in &networks {
                ensure!(known.insert(one.network), "{} has two names", one.network);
            }
            config.networks = networks;
            Ok(())
        },
        get: |config| {
            let text = |named: &NamedNetwork| format!("{}: {}", named.network, named.name);
            format!("{{{}}}", config.networks.iter().map(text).collect::<Vec<_>>().join(", "))
        },
    },
];

/// The key whose value in the file is a mapping with names of the user's own.
pub(super) const NETWORKS: &str = "names.cidrs";
/// Maximum length of a network's name in bytes: that of a Kubernetes label's value.
const NAME_MOST: usize = 63;

fn network(text: &str) -> Result<NamedNetwork> {
    let pair = text.rsplit_once('=').or_else(|| text.rsplit_once(": "));
    let (network, name) = pair.with_context(|| format!("{text:?} is not network=name"))?;
    let (network, name) = (network.trim(), name.trim());
    let parsed = network.parse::<IpNet>().or_else(|_| network.parse::<IpAddr>().map(IpNet::from));
    let network = parsed.ok().with_context(|| format!("{network:?} is not a network"))?.trunc();
    ensure!(
        !name.is_empty() && name.len() <= NAME_MOST,
        "{network} has no name, or one of more than {NAME_MOST} bytes"
    );
    Ok(NamedNetwork { network, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn networks(texts: &[&str]) -> Result<Vec<String>> {
        let key = Key::named(NETWORKS).unwrap();
        let mut config = Config::default();
        (key.set)(&mut config, &Given::List(texts.iter().map(|&text| text.to_owned()).collect()))?;
        Ok(config.networks.iter().map(|named| format!("{} {}", named.network, named.name)).collect())
    }

    #[test]
    fn networks_have_names() {
        let named = networks(&["10.1.2.3/16=corp", "192.0.2.1 = gate", "2001:db8::/32=six=6"]).unwrap_err();
        assert!(named.to_string().contains("2001:db8::/32=six"), "{named}");
        let named = networks(&["10.1.2.3/16=corp", "192.0.2.1 = gate", "2001:db8::/32=six"]).unwrap();
        assert_eq!(named, ["10.1.0.0/16 corp", "192.0.2.1/32 gate", "2001:db8::/32 six"]);
        for bad in
            [&["10.1.0.0/16"][..], &["10.1.0.0/33=a"], &["a=b"], &["10.0.0.0/8="], &["10.1.0.0/16=a", "10.1.9.9/16=b"]]
        {
            assert!(networks(bad).is_err(), "{bad:?}");
        }
    }

    /// The shown form is a valid value.
    #[test]
    fn a_mapping_is_shown_as_one() {
        let key = Key::named(NETWORKS).unwrap();
        let mut config = Config::default();
        let shown = "{10.1.0.0/16: corp, 2001:db8::/32: six}";
        (key.set)(&mut config, &Given::Text(shown.to_owned())).unwrap();
        assert_eq!((key.get)(&config), shown);
    }

    #[test]
    fn switches_accept_all_spellings() {
        let key = Key::named("kubernetes.enabled").unwrap();
        for (text, shown) in [("auto", "auto"), ("on", "on"), ("true", "on"), ("off", "off"), ("False", "off")] {
            let mut config = Config::default();
            (key.set)(&mut config, &Given::Text(text.to_owned())).unwrap();
            assert_eq!((key.get)(&config), shown);
        }
        assert!((key.set)(&mut Config::default(), &Given::Text("maybe".to_owned())).is_err());
    }
}
