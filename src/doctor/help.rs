//! Remedies in the terms of where netmon runs: who operates a pod has a manifest and a node, and neither `sudo` nor a unit.

/// Where remedies are to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    /// This host.
    Host,
    /// A pod's manifest, and its node.
    Pod,
}

impl Help {
    /// Of what this process is in. Kubelets tell each container where the API server is, whatever else it is given.
    pub fn here() -> Help {
        let told = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|value| !value.is_empty());
        if told { Help::Pod } else { Help::Host }
    }

    /// One of the two.
    pub fn either(self, host: impl Into<String>, pod: impl Into<String>) -> String {
        match self {
            Help::Host => host.into(),
            Help::Pod => pod.into(),
        }
    }

    /// Something that has to be done on the host itself.
    pub fn on_host(self, command: impl Into<String>) -> String {
        let command = command.into();
        match self {
            Help::Host => command,
            Help::Pod => format!("on the node: {command}"),
        }
    }

    /// A key of the configuration.
    pub fn setting(self, key: &str, value: &str) -> String {
        match self {
            Help::Host => format!("netmon --set {key}={value}"),
            Help::Pod => format!("{key}: {value} in the ConfigMap netmon-config (the chart's config)"),
        }
    }

    /// A capability, by its name without the prefix.
    pub fn capability(self, name: &str) -> String {
        let add = format!("in the container's securityContext: capabilities: {{add: [{name}]}}");
        match self {
            Help::Host => format!("run as root (sudo netmon), or {add}"),
            Help::Pod => format!("{add}; as a user other than root, where the runtime is Docker: the component root"),
        }
    }

    /// To start the agent anew.
    pub fn restart(self) -> String {
        self.either("restart netmon", "kubectl -n netmon-system rollout restart daemonset/netmon-agent")
    }
}
