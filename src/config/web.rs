//! The web configuration file, which says how the metrics are protected: TLS and users with passwords. The format is that of
//! Prometheus' own exporters. What of it netmon does not have is refused: a setting that is silently ignored protects nobody.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bcrypt::HashParts;
use saphyr::{MarkedYaml, YamlData};

use super::faults::{Faults, shown};
use super::keys::nearest;
use super::yaml::{Position, is_empty, parse, start, text_of};

/// What a web configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebConfig {
    /// How the server speaks TLS, if it does.
    pub tls: Option<TlsConfig>,
    /// Names of users, and the bcrypt hashes of their passwords. Without any, nobody is asked for a password.
    pub users: BTreeMap<String, String>,
}

/// How a server speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, followed by those of intermediate authorities: PEM.
    pub certificate: FileAt,
    /// The key of the certificate: PEM.
    pub key: FileAt,
    /// The authorities that sign clients' certificates, PEM, if clients are asked for certificates.
    pub client_ca: Option<FileAt>,
    /// True if a client without a certificate gets nothing, except what is open to everybody.
    pub certificate_required: bool,
    /// The oldest and the newest version of TLS.
    pub versions: (TlsVersion, TlsVersion),
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// A file that the web configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAt {
    /// Its path.
    pub path: PathBuf,
    /// Where it is named: file, line, column and key.
    place: String,
}

impl fmt::Display for FileAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.path.display())
    }
}

const TLS: &str = "tls_server_config";
const USERS: &str = "basic_auth_users";
const CERTIFICATE: &str = "cert_file";
const KEY: &str = "key_file";
const CLIENT_CA: &str = "client_ca_file";
const CLIENT_AUTH: &str = "client_auth_type";
const MIN_VERSION: &str = "min_version";
const MAX_VERSION: &str = "max_version";
const TLS_KEYS: [&str; 6] = [CERTIFICATE, KEY, CLIENT_CA, CLIENT_AUTH, MIN_VERSION, MAX_VERSION];
const ASKS: &str = "VerifyClientCertIfGiven";
const REQUIRES: &str = "RequireAndVerifyClientCert";

/// Keys that the format has and netmon has not, with the reason or what to do instead.
const REFUSED: [(&str, &str); 10] = [
    ("http_server_config", "netmon speaks HTTP/1.1, and adds no headers"),
    ("rate_limit", "netmon bounds its clients on its own"),
    ("cert", "name a file: cert_file"),
    ("key", "name a file: key_file"),
    ("client_ca", "name a file: client_ca_file"),
    ("client_allowed_sans", "any certificate of client_ca_file is accepted: name an authority of your own there"),
    ("cipher_suites", "all that netmon has are safe: with forward secrecy, and authenticated"),
    ("curve_preferences", "all that netmon has are safe"),
    ("prefer_server_cipher_suites", "the client's preference is safe: all suites are"),
    ("http2", "netmon speaks HTTP/1.1"),
];

/// The highest cost of a hash: to check a password of this cost takes seconds, and each step more doubles that.
const COST_MOST: u32 = 16;

impl WebConfig {
    /// Reads the text of the file `path`. Paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// The error lists all faults, each with its place and what would be valid.
    pub fn of_text(path: &Path, text: &str) -> Result<WebConfig> {
        let mut reader = Reader { path, faults: Faults::default() };
        let config = reader.read(text);
        reader.faults.check()?;
        Ok(config)
    }
}

struct Reader<'a> {
    path: &'a Path,
    faults: Faults,
}

impl Reader<'_> {
    fn place(&self, at: Position) -> String {
        format!("{}:{}:{}", self.path.display(), at.line, at.column)
    }

    fn fault(&mut self, at: Position, what: impl fmt::Display) {
        let place = self.place(at);
        self.faults.add(|| format!("{place}: {what}"));
    }

    fn read(&mut self, text: &str) -> WebConfig {
        let mut config = WebConfig::default();
        let top = match parse(text) {
            Ok(Some(top)) => top,
            Ok(None) => return config,
            Err((at, fault)) => {
                self.fault(at, fault);
                return config;
            }
        };
        for (name, at, value) in self.pairs(&top, &format!("{TLS} and {USERS}")) {
            match name {
                TLS => config.tls = self.tls(at, value),
                USERS => config.users = self.users(value),
                _ => self.unknown(at, name, &[TLS, USERS]),
            }
        }
        config
    }

    /// The keys of a mapping, with their places and values; none if there is no value.
    fn pairs<'n>(&mut self, node: &'n MarkedYaml<'n>, expected: &str) -> Vec<(&'n str, Position, &'n MarkedYaml<'n>)> {
        let mut named = Vec::new();
        match &node.data {
            YamlData::Mapping(pairs) => {
                for (key, value) in pairs {
                    match text_of(key) {
                        Some(name) => named.push((name, start(key), value)),
                        None => self.fault(start(key), "a key must be plain text"),
                    }
                }
            }
            _ if is_empty(node) => {}
            _ => self.fault(start(node), format!("expected keys and values: {expected}")),
        }
        named
    }

    fn unknown(&mut self, at: Position, name: &str, known: &[&str]) {
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            return self.fault(at, format!("{name} is not supported: {why}"));
        }
        let instead = match nearest(name, known.iter()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("valid are {}", known.join(", ")),
        };
        self.fault(at, format!("unknown key {}: {instead}", shown(name)));
    }

    fn users(&mut self, node: &MarkedYaml) -> BTreeMap<String, String> {
        let mut users = BTreeMap::new();
        for (name, at, value) in self.pairs(node, "names of users, and bcrypt hashes of their passwords") {
            // RFC 7617, 2: the name ends at the first colon.
            if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) {
                self.fault(at, "the name of a user is not empty, and has no colon and no control characters");
            }
            // Nothing of the hash is shown: the error goes to a log.
            match text_of(value).map(str::parse::<HashParts>) {
                Some(Ok(hash)) if hash.get_cost() > COST_MOST => {
                    let what = format!("{USERS}.{}: to check a password of cost", shown(name));
                    self.fault(
                        start(value),
                        format!("{what} {} would take too long; valid: at most {COST_MOST}", hash.get_cost()),
                    );
                }
                Some(Ok(_)) => drop(users.insert(name.to_owned(), text_of(value).unwrap_or_default().to_owned())),
                _ => self.fault(
                    start(value),
                    format!("{USERS}.{}: not a bcrypt hash; make one with: htpasswd -nBC 10 \"\"", shown(name)),
                ),
            }
        }
        users
    }

    fn tls(&mut self, at: Position, node: &MarkedYaml) -> Option<TlsConfig> {
        let mut given = BTreeMap::new();
        for (name, key_at, value) in self.pairs(node, &TLS_KEYS.join(", ")) {
            match TLS_KEYS.iter().find(|key| **key == name) {
                None => self.unknown(key_at, name, &TLS_KEYS),
                Some(_) if is_empty(value) => {}
                Some(key) => match text_of(value).map(str::trim).filter(|text| !text.is_empty()) {
                    Some(text) => drop(given.insert(*key, (text, start(value)))),
                    None => self.fault(start(value), format!("{TLS}.{key}: expected a single value")),
                },
            }
        }
        let file = |key: &str| {
            let (text, at) = given.get(key)?;
            let folder = self.path.parent().unwrap_or(Path::new(""));
            Some(FileAt { path: folder.join(text), place: format!("{}: {TLS}.{key}", self.place(*at)) })
        };
        let (certificate, key, client_ca) = (file(CERTIFICATE), file(KEY), file(CLIENT_CA));
        for (key, missing) in [(CERTIFICATE, certificate.is_none()), (KEY, key.is_none())] {
            if missing {
                self.fault(at, format!("{TLS}.{key} is missing"));
            }
        }
        let auth = given.get(CLIENT_AUTH).copied();
        let (asked, certificate_required) = match auth.map_or("NoClientCert", |(text, _)| text) {
            "NoClientCert" => (false, false),
            ASKS => (true, false),
            REQUIRES => (true, true),
            other => {
                let why = match other {
                    "RequestClientCert" | "RequireAnyClientCert" => "nobody would verify the certificate",
                    _ => "unknown",
                };
                let at = auth.map_or(at, |(_, at)| at);
                let valid = format!("valid: NoClientCert, {ASKS}, {REQUIRES}");
                self.fault(at, format!("{TLS}.{CLIENT_AUTH}: {}: {why}; {valid}", shown(other)));
                (client_ca.is_some(), false)
            }
        };
        if asked != client_ca.is_some() {
            let at = given.get(CLIENT_CA).or(given.get(CLIENT_AUTH)).map_or(at, |(_, at)| *at);
            self.fault(at, format!("{TLS}: {CLIENT_CA} needs {CLIENT_AUTH}: {REQUIRES} or {ASKS}, and they need it"));
        }
        let mut version = |key: &str, default| match given.get(key).copied() {
            None => default,
            Some(("TLS12", _)) => TlsVersion::Tls12,
            Some(("TLS13", _)) => TlsVersion::Tls13,
            Some((other, at)) => {
                self.fault(at, format!("{TLS}.{key}: {}; valid: TLS12, TLS13", shown(other)));
                default
            }
        };
        let versions = (version(MIN_VERSION, TlsVersion::Tls12), version(MAX_VERSION, TlsVersion::Tls13));
        if versions.0 > versions.1 {
            let at = given.get(MIN_VERSION).or(given.get(MAX_VERSION)).map_or(at, |(_, at)| *at);
            self.fault(at, format!("{TLS}: {MIN_VERSION} is above {MAX_VERSION}"));
        }
        Some(TlsConfig { certificate: certificate?, key: key?, client_ca, certificate_required, versions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

    fn read(text: &str) -> Result<WebConfig> {
        WebConfig::of_text(Path::new("/etc/netmon/web.yaml"), text)
    }

    #[test]
    fn files_are_beside_the_configuration() {
        let text = format!(
            "tls_server_config:
  cert_file: tls.crt
  key_file: /run/tls.key
  client_ca_file: ../ca.crt
  client_auth_type: RequireAndVerifyClientCert
  min_version: TLS13
basic_auth_users:
  prometheus: {HASH}
"
        );
        let WebConfig { tls, users } = read(&text).unwrap();
        let tls = tls.unwrap();
        assert_eq!(tls.certificate.path, Path::new("/etc/netmon/tls.crt"));
        assert_eq!(
            tls.certificate.to_string(),
            "/etc/netmon/web.yaml:2:14: tls_server_config.cert_file: /etc/netmon/tls.crt"
        );
        assert_eq!(tls.key.path, Path::new("/run/tls.key"));
        assert_eq!(tls.client_ca.unwrap().path, Path::new("/etc/netmon/../ca.crt"));
        assert_eq!((tls.certificate_required, tls.versions), (true, (TlsVersion::Tls13, TlsVersion::Tls13)));
        assert_eq!(users, BTreeMap::from([("prometheus".to_owned(), HASH.to_owned())]));
    }

    #[test]
    fn nothing_is_required() {
        for text in ["", "{}", "# nothing\n", "tls_server_config:\nbasic_auth_users: {}\n"] {
            let read = read(text);
            match text.contains("tls") {
                true => assert!(read.is_err(), "TLS without a certificate"),
                false => assert_eq!(read.unwrap(), WebConfig::default(), "{text:?}"),
            }
        }
        let tls = read("tls_server_config: {cert_file: a, key_file: b}").unwrap().tls.unwrap();
        assert_eq!((tls.client_ca, tls.certificate_required), (None, false));
        assert_eq!(tls.versions, (TlsVersion::Tls12, TlsVersion::Tls13));
        let tls = read("tls_server_config: {cert_file: a, key_file: b, max_version: TLS12}").unwrap().tls.unwrap();
        assert_eq!(tls.versions, (TlsVersion::Tls12, TlsVersion::Tls12));
    }

    #[test]
    fn faults_are_placed() {
        let pair = "cert_file: a, key_file: b";
        for (text, fault) in [
            ("- a".to_owned(), "1:1: expected keys and values"),
            ("tls_server_config: [a]".to_owned(), "1:20: expected keys and values: cert_file, key_file"),
            ("tls_server_config:\n  cert_file: a\n".to_owned(), "1:1: tls_server_config.key_file is missing"),
            (format!("tls_server_config: {{{pair}, cert_fil: c}}"), "did you mean cert_file?"),
            (format!("tls_server_config: {{{pair}, cipher_suites: []}}"), "1:48: cipher_suites is not supported"),
            (format!("tls_server_config: {{{pair}, min_version: TLS10}}"), "valid: TLS12, TLS13"),
            (format!("tls_server_config: {{{pair}, min_version: TLS13, max_version: TLS12}}"), "is above max_version"),
            (format!("tls_server_config: {{{pair}, client_ca_file: c}}"), "needs client_auth_type"),
            (format!("tls_server_config: {{{pair}, client_auth_type: {ASKS}}}"), "client_ca_file needs"),
            (format!("tls_server_config: {{{pair}, client_auth_type: RequireAnyClientCert}}"), "nobody would verify"),
            ("http_server_config: {http2: true}".to_owned(), "1:1: http_server_config is not supported: netmon speaks"),
            ("basic_auth_user: {}".to_owned(), "did you mean basic_auth_users?"),
            ("basic_auth_users:\n  me: hunter2\n".to_owned(), "2:7: basic_auth_users.me: not a bcrypt hash"),
            (format!("basic_auth_users: {{a:b: {HASH}}}"), "no colon"),
            (format!("basic_auth_users: {{a: {}}}", HASH.replace("$10$", "$20$")), "cost 20 would take too long"),
            (format!("basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n"), ":3:3: "),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.starts_with("/etc/netmon/web.yaml:"), "{error}");
            assert!(error.contains(fault), "{text}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("zoubFi"), "{error}");
        }
        let both = read("rate_limit: {}\nbasic_auth_users: {a: b}\n").unwrap_err().to_string();
        assert_eq!(both.lines().count(), 2, "{both}");
    }
}
