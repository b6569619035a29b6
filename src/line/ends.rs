//! The names of a flow's ends, as printed.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::flow::Party;

/// The names of one end of a flow.
#[derive(Clone, Debug, Default)]
pub struct Ends(pub Arc<Party>);

impl Ends {
    /// A short name in place of its address: the service that was dialled, or the pod, with its namespace, or the node.
    /// `None` if no name says as much as the address.
    pub fn host(&self) -> Option<String> {
        let Party { namespace, pod, workload, service, node, .. } = &*self.0;
        match (service.as_ref().or(pod.as_ref()).or(workload.as_ref()), namespace) {
            (Some(name), Some(namespace)) => Some(format!("{namespace}/{name}")),
            (Some(name), None) => Some(name.to_string()),
            (None, _) => node.as_ref().map(|node| node.to_string()),
        }
    }
}

/// The JSON fields, in their order.
#[derive(Serialize)]
struct Fields<'a> {
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    workload: Option<&'a str>,
    workload_kind: Option<&'a str>,
    node: Option<&'a str>,
    zone: Option<&'a str>,
    service: Option<&'a str>,
    name: Option<&'a str>,
}

impl Serialize for Ends {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Chosen labels are for metrics alone.
        let Party { namespace, pod, workload, workload_kind, node, zone, service, name, labels: _ } = &*self.0;
        Fields {
            namespace: namespace.as_deref(),
            pod: pod.as_deref(),
            workload: workload.as_deref(),
            workload_kind: workload_kind.as_deref(),
            node: node.as_deref(),
            zone: zone.as_deref(),
            service: service.as_deref(),
            name: name.as_deref(),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_name_stands_for_the_address() {
        let name = |name: &str| Some(Arc::<str>::from(name));
        let pod = Party { namespace: name("shop"), pod: name("web-1"), workload: name("web"), ..Party::default() };
        let dialled = Party { service: name("front"), ..pod.clone() };
        let node = Party { node: name("n1"), ..Party::default() };
        let network = Party { name: name("corp"), ..Party::default() };
        let hosts = [pod, dialled, node, network].map(|party| Ends(Arc::new(party)).host());
        assert_eq!(hosts, [name("shop/web-1"), name("shop/front"), name("n1"), None].map(|n| n.map(|n| n.to_string())));
    }
}
