//! Who the ends of a flow are, as printed.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::flow::Party;

/// One end of a flow, by its names in the cluster.
#[derive(Clone, Debug, Default)]
pub struct Ends(pub Arc<Party>);

/// The fields, in their order.
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
        let Party { namespace, pod, workload, workload_kind, node, zone, service, name } = &*self.0;
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
