//! The content of credentials: a kubeconfig with the content of all files it refers to inlined. The library would read these files
//! itself from time to time, and would block on whatever had replaced them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};

use crate::regular_file;

/// The folder in which a pod has the secrets of its service account.
pub(super) const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// A kubeconfig and everything that was read for it. Two are equal if the same bytes were read.
#[derive(Debug)]
pub(super) struct Secrets {
    pub(super) kubeconfig: Kubeconfig,
    read: Vec<Vec<u8>>,
}

impl PartialEq for Secrets {
    fn eq(&self, other: &Secrets) -> bool {
        self.read == other.read
    }
}

impl Secrets {
    /// Reads a kubeconfig file. Paths in it are relative to its folder.
    pub(super) fn of_kubeconfig(path: &Path) -> Result<Secrets> {
        let what = || format!("read the kubeconfig {}", path.display());
        let text = regular_file::read_text(path).with_context(what)?;
        let kubeconfig = Kubeconfig::from_yaml(text.trim_start_matches('\u{feff}')).with_context(what)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Secrets::inlined(kubeconfig, folder, text.into_bytes()).with_context(what)
    }

    /// Reads the pod's service account.
    pub(super) fn of_service_account() -> Result<Secrets> {
        let variable = |name| std::env::var(name).with_context(|| format!("the variable {name}"));
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let server = format!("https://{host}:{port}");
        let name = "pod".to_owned();
        let cluster = Cluster {
            server: Some(server.clone()),
            certificate_authority: Some(AUTHORITY.to_owned()),
            ..Cluster::default()
        };
        let auth_info = AuthInfo { token_file: Some(TOKEN.to_owned()), ..AuthInfo::default() };
        let context = Context { cluster: name.clone(), user: Some(name.clone()), ..Context::default() };
        let kubeconfig = Kubeconfig {
            clusters: vec![NamedCluster { name: name.clone(), cluster: Some(cluster), ..NamedCluster::default() }],
            auth_infos: vec![NamedAuthInfo {
                name: name.clone(),
                auth_info: Some(auth_info),
                ..NamedAuthInfo::default()
            }],
            contexts: vec![NamedContext { name: name.clone(), context: Some(context), ..NamedContext::default() }],
            current_context: Some(name),
            ..Kubeconfig::default()
        };
        Secrets::inlined(kubeconfig, Path::new("/"), server.into_bytes())
    }

    /// Inlines the files of the current context. Files of other contexts are not read.
    fn inlined(mut kubeconfig: Kubeconfig, folder: &Path, first: Vec<u8>) -> Result<Secrets> {
        let mut files = Files { folder: folder.to_owned(), read: vec![first] };
        let current =
            kubeconfig.contexts.iter().find(|context| Some(&context.name) == kubeconfig.current_context.as_ref());
        let Some(context) = current.and_then(|context| context.context.clone()) else {
            return Ok(Secrets { kubeconfig, read: files.read });
        };
        let cluster = kubeconfig.clusters.iter_mut().find(|cluster| cluster.name == context.cluster);
        if let Some(cluster) = cluster.and_then(|cluster| cluster.cluster.as_mut())
            && let Some(data) = files.take(&mut cluster.certificate_authority)?
        {
            cluster.certificate_authority_data.get_or_insert(STANDARD.encode(data));
        }
        let user = kubeconfig.auth_infos.iter_mut().find(|user| Some(&user.name) == context.user.as_ref());
        if let Some(user) = user.and_then(|user| user.auth_info.as_mut()) {
            if let Some(data) = files.take(&mut user.client_certificate)? {
                user.client_certificate_data.get_or_insert(STANDARD.encode(data));
            }
            if let Some(data) = files.take(&mut user.client_key)? {
                user.client_key_data.get_or_insert(STANDARD.encode(data).into());
            }
            if let Some(data) = files.take(&mut user.token_file)? {
                let token = String::from_utf8(data).context("the token is not UTF-8")?;
                user.token.get_or_insert(token.trim().to_owned().into());
            }
        }
        Ok(Secrets { kubeconfig, read: files.read })
    }
}

struct Files {
    folder: PathBuf,
    read: Vec<Vec<u8>>,
}

impl Files {
    /// Reads the file and clears its path.
    fn take(&mut self, path: &mut Option<String>) -> Result<Option<Vec<u8>>> {
        let Some(path) = path.take() else { return Ok(None) };
        let path = self.folder.join(path);
        let content = regular_file::read(&path).with_context(|| format!("read {}", path.display()))?;
        self.read.push(content.clone());
        Ok(Some(content))
    }
}
