//! The names of the ends of a flow.

use std::sync::Arc;

/// The names of an end of a flow. A name that is not known or does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Party {
    /// Namespace of the pod or the service.
    pub namespace: Option<Arc<str>>,
    /// Name of its pod.
    pub pod: Option<Arc<str>>,
    /// The pod's top-level owner: a Deployment, not its ReplicaSet. A bare pod is its own workload.
    pub workload: Option<Arc<str>>,
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, `ReplicaSet`, `Pod`, or the kind of another owner.
    pub workload_kind: Option<Arc<str>>,
    /// The node that it runs on, or that it is.
    pub node: Option<Arc<str>>,
    /// The node's zone (`topology.kubernetes.io/zone`).
    pub zone: Option<Arc<str>>,
    /// The service that was dialled, or that the pod is an endpoint of.
    pub service: Option<Arc<str>>,
    /// Name of the configured network that the address belongs to.
    pub name: Option<Arc<str>>,
    /// The labels of its pod that were chosen (`kubernetes.labels`); `None` if it has none of them.
    pub labels: Option<LabelValues>,
}

/// The values of the chosen labels, in the order in which they were chosen. Objects with the same values share them.
pub type LabelValues = Arc<[Option<Arc<str>>]>;

/// The ends of a flow, in the order of its key. Flows with the same ends share them.
pub type Parties = [Option<Arc<Party>>; 2];

impl Party {
    /// True for a named network outside of the cluster, which is no single host.
    pub fn is_network(&self) -> bool {
        self.name.is_some()
    }

    /// The one name to show for it: its workload, else its pod, its network, or its node.
    pub fn title(&self) -> Option<&Arc<str>> {
        let Party { workload, pod, name, node, .. } = self;
        // A service without a backend that answers runs on no node, and is distinguished by its own label.
        workload.as_ref().or(pod.as_ref()).or(name.as_ref()).or(node.as_ref())
    }
}
