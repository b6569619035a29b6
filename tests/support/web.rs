//! A folder with certificates and a web configuration file.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// The folder, with an authority's certificate in `ca.crt`; it is deleted with this value.
pub struct Web {
    folder: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Web {
    /// A folder of this name, which also has `server.crt`, `server.key`, `client.crt` and `client.key`.
    pub fn new(name: &str) -> Web {
        let folder = std::env::temp_dir().join(format!("netmon-web-{}-{name}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let web = Web { folder, authority: authority() };
        fs::write(web.path("ca.crt"), web.authority.pem()).unwrap();
        web.issue("server");
        web.issue("client");
        web
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Signs a certificate of this name; returns it.
    pub fn issue(&self, name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1", "10.9.0.2"].map(str::to_owned);
        let mut parameters = CertificateParams::new(names).unwrap();
        // Were it that of the authority, OpenSSL would take the certificate for self-signed.
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &self.authority).unwrap();
        self.put(&format!("{name}.crt"), &certificate.pem());
        self.put(&format!("{name}.key"), &key.serialize_pem());
        certificate.pem()
    }

    /// Writes a file and renames it into place, so that it is never seen half written.
    pub fn put(&self, name: &str, text: &str) -> PathBuf {
        let (new, path) = (self.path("new"), self.path(name));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// Writes the web configuration file.
    pub fn configure(&self, text: &str) -> PathBuf {
        self.put("web.yaml", text)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap()
}

/// A path as a command's argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// TLS with the folder's certificate.
pub const TLS: &str = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n";

/// TLS, and clients with a certificate of the folder's authority alone.
pub const MUTUAL: &str = "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, \
                          client_auth_type: RequireAndVerifyClientCert}\n";

/// A user with a password, whose hash costs what it says.
pub fn user(name: &str, password: &str, cost: u32) -> String {
    format!("basic_auth_users:\n  {name}: {}\n", bcrypt::hash(password, cost).unwrap())
}
