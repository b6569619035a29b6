//! Certificates and keys, and how TLS is spoken with them.

use std::io;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig};

use crate::config::{FileAt, TlsConfig, TlsVersion};
use crate::regular_file;

/// The contents of the files that TLS needs.
pub(super) struct Material {
    certificate: io::Result<Vec<u8>>,
    key: io::Result<Vec<u8>>,
    client_ca: Option<io::Result<Vec<u8>>>,
}

impl Material {
    pub(super) fn read(tls: &TlsConfig) -> Material {
        let read = |file: &FileAt| regular_file::read(&file.path);
        Material {
            certificate: read(&tls.certificate),
            key: read(&tls.key),
            client_ca: tls.client_ca.as_ref().map(read),
        }
    }

    /// What was read, in an order that is always the same.
    pub(super) fn contents(&self) -> impl Iterator<Item = Result<&[u8], &io::Error>> {
        let all = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        all.into_iter().flatten().map(|content| content.as_deref())
    }

    /// How TLS is spoken with them. A client may show a certificate if there is an authority for that; it must only for pages that are
    /// not open to everybody, because the kubelet has none when it asks for the agent's health.
    pub(super) fn server_config(&self, tls: &TlsConfig) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(ring::default_provider());
        let (oldest, newest) = tls.versions;
        let versions = [(TlsVersion::Tls12, &TLS12), (TlsVersion::Tls13, &TLS13)];
        let versions = versions.into_iter().filter(|(version, _)| (oldest..=newest).contains(version));
        let versions: Vec<_> = versions.map(|(_, version)| version).collect();
        let chain = certificates(&tls.certificate, &self.certificate)?;
        let key = private_key(&tls.key, &self.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions)?;
        let builder = match tls.client_ca.as_ref().zip(self.client_ca.as_ref()) {
            Some((file, content)) => builder.with_client_cert_verifier(client_verifier(file, content, provider)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                anyhow!("{}: not the key of the certificate {}", tls.key, tls.certificate.path.display())
            }
            error => anyhow!("{}, with its key {}: {error}", tls.certificate, tls.key.path.display()),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn content<'a>(file: &FileAt, content: &'a io::Result<Vec<u8>>) -> Result<&'a [u8]> {
    content.as_deref().map_err(|error| anyhow!("{file}: {error}"))
}

fn certificates(file: &FileAt, read: &io::Result<Vec<u8>>) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(content(file, read)?).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| anyhow!("{file}: not PEM: {error}"))?;
    if found.is_empty() {
        bail!("{file}: no certificate in it: expected PEM, with a line \"-----BEGIN CERTIFICATE-----\"");
    }
    Ok(found)
}

fn private_key(file: &FileAt, read: &io::Result<Vec<u8>>) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(content(file, read)?).map_err(|error| match error {
        PemError::NoItemsFound => anyhow!(
            "{file}: no private key in it: expected PEM without a passphrase, with a line \"-----BEGIN PRIVATE KEY-----\""
        ),
        error => anyhow!("{file}: not PEM: {error}"),
    })
}

fn client_verifier(
    file: &FileAt,
    read: &io::Result<Vec<u8>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, read)? {
        roots.add(certificate).map_err(|error| anyhow!("{file}: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated();
    verifier.build().map_err(|error| anyhow!("{file}: {error}"))
}
