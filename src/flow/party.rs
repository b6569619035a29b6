//! Who the ends of a flow are.

use std::sync::Arc;

/// Who an end of a flow is, by its names. What is not known, or does not apply, is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Party {
    /// Of the pod or the service.
    pub namespace: Option<Arc<str>>,
    /// Its pod.
    pub pod: Option<Arc<str>>,
    /// What owns the pod in the end: a Deployment, not its ReplicaSet. A bare pod is its own workload.
    pub workload: Option<Arc<str>>,
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, `ReplicaSet`, `Pod`, or the kind of another owner.
    pub workload_kind: Option<Arc<str>>,
    /// The node that it runs on, or is.
    pub node: Option<Arc<str>>,
    /// The node's zone (`topology.kubernetes.io/zone`).
    pub zone: Option<Arc<str>>,
    /// The service that was dialled, or that it is an endpoint of.
    pub service: Option<Arc<str>>,
    /// Of a network, where the address belongs to one that has a name.
    pub name: Option<Arc<str>>,
}

/// The ends of flows, in the order of their keys. Flows of the same ends share them: they are many.
pub type Parties = [Option<Arc<Party>>; 2];

impl Party {
    /// A network outside, not one who is in it.
    pub fn is_network(&self) -> bool {
        self.name.is_some()
    }

    /// What stands for it where one name has to do: its workload, else its pod, its network, or its node.
    pub fn title(&self) -> Option<&Arc<str>> {
        let Party { workload, pod, name, node, .. } = self;
        // A service that nobody answers for runs on no node, and is told apart by its own label.
        workload.as_ref().or(pod.as_ref()).or(name.as_ref()).or(node.as_ref())
    }
}
