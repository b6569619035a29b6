//! Remedies that fit where netmon runs: the operator of a pod has a manifest and a node, and neither `sudo` nor a
//! systemd unit.

/// Where remedies have to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    /// On this host.
    Host,
    /// In a pod's manifest, or on its node.
    Pod,
}

impl Help {
    /// Detects whether this process runs in a pod. Kubelets give each container the API server's address in its
    /// environment.
    pub fn here() -> Help {
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|value| !value.is_empty());
        if in_pod { Help::Pod } else { Help::Host }
    }

    /// The remedy for a host or the one for a pod.
    pub fn either(self, host: impl Into<String>, pod: impl Into<String>) -> String {
        match self {
            Help::Host => host.into(),
            Help::Pod => pod.into(),
        }
    }

    /// A command that has to run on the host itself.
    pub fn on_host(self, command: impl Into<String>) -> String {
        let command = command.into();
        match self {
            Help::Host => command,
            Help::Pod => format!("on the node: {command}"),
        }
    }

    /// How to set a configuration key.
    pub fn setting(self, key: &str, value: &str) -> String {
        match self {
            Help::Host => format!("netmon --set {key}={value}"),
            Help::Pod => format!("{key}: {value} in the ConfigMap netmon-config (the chart's config)"),
        }
    }

    /// How to grant a capability, by its name without the prefix.
    pub fn capability(self, name: &str) -> String {
        let add = format!("in the container's securityContext: capabilities: {{add: [{name}]}}");
        match self {
            Help::Host => format!("run as root (sudo netmon), or {add}"),
            Help::Pod => format!("{add}; for a user other than root with Docker as the runtime: the component root"),
        }
    }

    /// How to restart the agent.
    pub fn restart(self) -> String {
        self.either("restart netmon", "kubectl -n netmon-system rollout restart daemonset/netmon-agent")
    }
}
