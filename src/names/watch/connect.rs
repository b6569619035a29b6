//! How the API server is reached, and by which credentials.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::header::{HeaderValue, USER_AGENT};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};

use super::secrets::{Secrets, TOKEN};

const CONNECT_TIME: Duration = Duration::from_secs(10);

/// By which an API server's operator tells whose requests these are, in logs and audits.
fn program() -> Result<HeaderValue> {
    // Kubernetes calls architectures as Go does.
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let program = format!("netmon/{} ({}/{arch})", env!("CARGO_PKG_VERSION"), std::env::consts::OS);
    HeaderValue::from_str(&program).context("tell who asks")
}

/// Whether a cluster is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enabled {
    /// If there are credentials for one: a pod's own, or a kubeconfig that was named.
    #[default]
    Auto,
    /// There must be one.
    On,
    /// There is none.
    Off,
}

/// Where the credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Those of the pod's service account.
    InCluster,
    /// A file.
    Kubeconfig(PathBuf),
}

impl Credentials {
    /// The file that was named goes first, then the pod's own, then `$KUBECONFIG`. Where there must be a cluster, root's own
    /// `~/.kube/config` will do too.
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
                "kubernetes.enabled is on, and there is no cluster: this is no pod with a service account's token \
                 (KUBERNETES_SERVICE_HOST, {TOKEN}), and no kubeconfig was named; name one by kubernetes.kubeconfig, or give \
                 --kubernetes auto"
            ),
        }
    }

    /// Reads them as they are now.
    pub(super) fn read(&self) -> Result<Secrets> {
        match self {
            Credentials::InCluster => Secrets::of_service_account().context("read the service account of this pod"),
            Credentials::Kubeconfig(path) => Secrets::of_kubeconfig(path),
        }
    }

    /// A client that has these of them.
    pub(super) async fn connect(&self, secrets: &Secrets) -> Result<(String, Client)> {
        let mut config = Config::from_custom_kubeconfig(secrets.kubeconfig.clone(), &KubeConfigOptions::default())
            .await
            .with_context(|| format!("use {self}"))?;
        config.connect_timeout = Some(CONNECT_TIME);
        // When to come again is decided here, by what the server says.
        config.default_retry = false;
        config.headers.push((USER_AGENT, program()?));
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).context("make a client of the cluster's API")?;
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
