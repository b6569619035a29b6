//! The labels that distinguish the series of `/metrics`.

use anyhow::{Context, Result};

/// A label that identifies an end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Label {
    SrcIp,
    DstIp,
    SrcNamespace,
    DstNamespace,
    SrcWorkload,
    DstWorkload,
    SrcService,
    DstService,
    SrcNode,
    DstNode,
    SrcZone,
    DstZone,
}

const ALL: [(Label, &str); 12] = [
    (Label::SrcIp, "src_ip"),
    (Label::DstIp, "dst_ip"),
    (Label::SrcNamespace, "src_namespace"),
    (Label::SrcWorkload, "src_workload"),
    (Label::DstNamespace, "dst_namespace"),
    (Label::DstWorkload, "dst_workload"),
    (Label::DstService, "dst_service"),
    (Label::SrcService, "src_service"),
    (Label::SrcNode, "src_node"),
    (Label::DstNode, "dst_node"),
    (Label::SrcZone, "src_zone"),
    (Label::DstZone, "dst_zone"),
];
/// The first labels of `ALL`, this many, are the default.
const DEFAULT: usize = 7;

impl Label {
    /// The label's name in metrics.
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(label, _)| *label == self).map_or("", |(_, name)| name)
    }
}

/// The set of identity labels of series. Flows that differ only in other labels share a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels(u16);

impl Default for Labels {
    fn default() -> Labels {
        ALL[..DEFAULT].iter().fold(Labels(0), |labels, (label, _)| labels.with(*label))
    }
}

impl Labels {
    /// The labels with these names; empty names are ignored.
    ///
    /// # Errors
    ///
    /// A name is not that of a label.
    pub fn new(names: &[String]) -> Result<Labels> {
        names.iter().filter(|name| !name.is_empty()).try_fold(Labels(0), |labels, name| {
            let known = ALL.iter().find(|(_, known)| known == name);
            Ok(labels.with(known.with_context(|| format!("there is no label {name:?}"))?.0))
        })
    }

    fn with(self, label: Label) -> Labels {
        Labels(self.0 | 1 << label as u16)
    }

    /// The set without this label.
    pub fn without(self, label: Label) -> Labels {
        Labels(self.0 & !(1 << label as u16))
    }

    /// True if the set has this label.
    pub fn has(self, label: Label) -> bool {
        self.0 & 1 << label as u16 != 0
    }

    /// Names of the labels in the set.
    pub fn names(self) -> Vec<String> {
        ALL.iter().filter(|(label, _)| self.has(*label)).map(|(_, name)| (*name).to_owned()).collect()
    }
}

/// How an address outside of the cluster is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum External {
    /// By its network if there is a cluster, else as it is.
    #[default]
    Auto,
    /// By the name of its network: one of `names.cidrs`, else `external`.
    Group,
    /// As it is.
    Address,
}

impl External {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            External::Auto => "auto",
            External::Group => "group",
            External::Address => "address",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_names() {
        let labels = Labels::default();
        assert_eq!(Labels::new(&labels.names()).unwrap(), labels);
        assert!(labels.has(Label::DstService) && !labels.has(Label::SrcService) && !labels.has(Label::DstZone));
        let without = labels.without(Label::SrcIp).without(Label::DstIp);
        assert!(!without.has(Label::SrcIp) && without.has(Label::SrcWorkload));
        let error = Labels::new(&["src_ip".to_owned(), "src_port".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("src_port"));
        assert_eq!(Labels::new(&[]).unwrap().names(), Vec::<String>::new());
    }
}
