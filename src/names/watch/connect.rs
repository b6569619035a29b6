//! Connecting to the API server, and finding the credentials for it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::header::{HeaderValue, USER_AGENT};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};

use super::secrets::{Secrets, TOKEN};

const CONNECT_TIME: Duration = Duration::from_secs(10);

/// The user agent, by which an API server's operator identifies netmon's requests in logs and audits.
fn program() -> Result<HeaderValue> {
    // Kubernetes uses Go's names of architectures.
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let program = format!("netmon/{} ({}/{arch})", env!("NETMON_VERSION"), std::env::consts::OS);
    HeaderValue::from_str(&program).context("set the user agent")
}

/// Whether to look for a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enabled {
    /// If there are credentials for one: those of the pod, or an explicitly given kubeconfig.
    #[default]
    Auto,
    /// A cluster is required.
    On,
    /// No cluster is used.
    Off,
}

/// The source of the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// The pod's service account.
    InCluster,
    /// A kubeconfig file.
    Kubeconfig(PathBuf),
}

impl Credentials {
    /// Finds credentials in this order: the given file, the pod's service account, `$KUBECONFIG`, and `~/.kube/config` if a cluster
    /// is required. Returns `None` if there are none; it is an error if a cluster is required.
    pub(super) fn find(enabled: Enabled, named: Option<&PathBuf>) -> Result<Option<Credentials>> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if enabled == Enabled::Off {
            return Ok(None);
        }
        if let Some(path) = named {
            return Ok(Some(Credentials::Kubeconfig(path.clone())));
        }
        if variable("KUBERNETES_SERVICE_HOST").is_some() && PathBuf::from(TOKEN).exists() {
            return Ok(Some(Credentials::InCluster));
        }
        if let Some(path) = variable("KUBECONFIG") {
            return Ok(Some(Credentials::Kubeconfig(path.into())));
        }
        if enabled == Enabled::Auto {
            return Ok(None);
        }
        let home = variable("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
        match home.filter(|path| path.exists()) {
            Some(path) => Ok(Some(Credentials::Kubeconfig(path))),
            None => bail!(
                "kubernetes.enabled is on, and there is no cluster: this is not a pod with a service account token \
                 (KUBERNETES_SERVICE_HOST, {TOKEN}), and no kubeconfig is given; set kubernetes.kubeconfig, or use \
                 --kubernetes auto"
            ),
        }
    }

    /// Reads the credentials' current content.
    pub(super) fn read(&self) -> Result<Secrets> {
        match self {
            Credentials::InCluster => Secrets::of_service_account().context("read the service account of this pod"),
            Credentials::Kubeconfig(path) => Secrets::of_kubeconfig(path),
        }
    }

    /// Creates a client with these secrets. Returns the server's URL with it.
    pub(super) async fn connect(&self, secrets: &Secrets) -> Result<(String, Client)> {
        let mut config = Config::from_custom_kubeconfig(secrets.kubeconfig.clone(), &KubeConfigOptions::default())
            .await
            .with_context(|| format!("use {self}"))?;
        config.connect_timeout = Some(CONNECT_TIME);
        // Retries are decided here, based on the server's response.
        config.default_retry = false;
        config.headers.push((USER_AGENT, program()?));
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).context("create a client for the cluster's API")?;
        Ok((server, client))
    }
}

impl std::fmt::Display for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credentials::InCluster => f.write_str("the pod's service account"),
            Credentials::Kubeconfig(path) => write!(f, "kubeconfig {}", path.display()),
        }
    }
}
