//! What protects a server: TLS and users, from a web configuration file. It and the files that it names are looked at when clients come,
//! so that a renewed certificate takes effect without a restart.

mod tls;
mod users;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::header::HeaderMap;
use ring::digest;
use tokio_rustls::rustls::ServerConfig;

use self::tls::Material;
use self::users::{Credentials, Users, Verified};
use super::connection::{Clock, Secured};
use crate::config::WebConfig;
use crate::{lock, regular_file};

/// The files are looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What protects a server.
pub struct Guard {
    path: PathBuf,
    state: Mutex<State>,
    verified: Verified,
    taken: AtomicU64,
    refused: AtomicU64,
}

impl fmt::Debug for Guard {
    /// Without anything secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.path).finish()
    }
}

struct State {
    looked: Instant,
    /// The files as they were read last, in force or not.
    seen: digest::Digest,
    rules: Arc<Rules>,
}

/// The protection that is in force.
pub(super) struct Rules {
    /// How TLS is spoken, if it is.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// A client shows a certificate, or gets nothing.
    pub(super) certificate_required: bool,
    users: Users,
}

impl Guard {
    /// Reads a web configuration file, and the files that it names.
    ///
    /// # Errors
    ///
    /// One of them cannot be read or used. The error names it, and the lines of what is wrong with the configuration.
    pub fn load(path: &Path) -> Result<Guard> {
        let files = Files::read(path);
        let state = State { looked: Instant::now(), seen: files.digest(), rules: Arc::new(files.rules()?) };
        Ok(Guard {
            path: path.to_owned(),
            state: Mutex::new(state),
            verified: Verified::new()?,
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// The scheme of the server's pages.
    pub fn scheme(&self) -> &'static str {
        if lock::ignoring_poison(&self.state).rules.tls.is_some() { "https" } else { "http" }
    }

    /// The protection in words.
    pub fn describe(&self) -> String {
        lock::ignoring_poison(&self.state).rules.describe()
    }

    /// How often changed files were taken, and how often they were refused because something was wrong with them.
    pub fn reloads(&self) -> (u64, u64) {
        (self.taken.load(Relaxed), self.refused.load(Relaxed))
    }

    /// The protection in force, after a look at the files.
    pub(super) fn rules(&self) -> Arc<Rules> {
        let mut state = lock::ignoring_poison(&self.state);
        if state.looked.elapsed() >= LOOK_EVERY {
            self.look(&mut state);
            state.looked = Instant::now();
        }
        Arc::clone(&state.rules)
    }

    fn look(&self, state: &mut State) {
        let files = Files::read(&self.path);
        let seen = files.digest();
        if seen.as_ref() == state.seen.as_ref() {
            return;
        }
        state.seen = seen;
        match files.rules().and_then(|rules| rules.no_weaker_than(&state.rules)) {
            Ok(rules) => {
                log::info!("{} read again: {}", self.path.display(), rules.describe());
                self.verified.keep(&rules.users);
                state.rules = Arc::new(rules);
                self.taken.fetch_add(1, Relaxed);
            }
            Err(error) => {
                log::error!("the web configuration stays as it was: {error:#}");
                self.refused.fetch_add(1, Relaxed);
            }
        }
    }

    /// Whether a request with these headers is one of the users', if there are users.
    pub(super) async fn admits(&self, rules: &Rules, headers: &HeaderMap, clock: &Clock) -> bool {
        if rules.users.is_empty() {
            return true;
        }
        let Some(credentials) = Credentials::of(headers) else { return false };
        if self.verified.has(&rules.users, &credentials) {
            return true;
        }
        clock.making();
        self.verified.verify(&rules.users, credentials).await
    }
}

impl Rules {
    /// The connection speaks TLS as it is spoken now.
    pub(super) fn is_of(&self, secured: &Secured) -> bool {
        match (&self.tls, &secured.tls) {
            (Some(now), Some(then)) => Arc::ptr_eq(now, then),
            (now, then) => now.is_none() && then.is_none(),
        }
    }

    fn describe(&self) -> String {
        let tls = match (&self.tls, self.certificate_required) {
            (None, _) => "no TLS",
            (Some(_), false) => "TLS",
            (Some(_), true) => "TLS, client certificates are required",
        };
        match self.users.len() {
            0 => format!("{tls}, no passwords"),
            1 => format!("{tls}, 1 user"),
            users => format!("{tls}, {users} users"),
        }
    }

    /// A file that is being written may be empty for a moment: that must not open the port.
    fn no_weaker_than(self, before: &Rules) -> Result<Rules> {
        let lost = [
            ("TLS", before.tls.is_some() && self.tls.is_none()),
            ("the need for client certificates", before.certificate_required && !self.certificate_required),
            ("all users", !before.users.is_empty() && self.users.is_empty()),
        ];
        match lost.iter().find(|(_, lost)| *lost) {
            Some((what, _)) => bail!("the changed file takes away {what}, which takes a restart"),
            None => Ok(self),
        }
    }
}

/// The files as they are now.
struct Files {
    text: std::io::Result<String>,
    config: Result<WebConfig>,
    material: Option<Material>,
}

impl Files {
    fn read(path: &Path) -> Files {
        let text = regular_file::read_text(path);
        let config = match &text {
            Ok(text) => WebConfig::of_text(path, text),
            Err(error) => Err(anyhow::anyhow!("{}: {error}", path.display())),
        };
        let tls = config.as_ref().ok().and_then(|config| config.tls.as_ref());
        let material = tls.map(Material::read);
        Files { text, config, material }
    }

    fn digest(&self) -> digest::Digest {
        let mut all = digest::Context::new(&digest::SHA256);
        let text = self.text.as_ref().map(String::as_bytes);
        let material = self.material.iter().flat_map(Material::contents);
        for content in std::iter::once(text).chain(material) {
            // That a file cannot be read is a change too.
            let bytes = content.map_or_else(|error| error.to_string().into_bytes(), <[u8]>::to_vec);
            all.update(&bytes.len().to_le_bytes());
            all.update(&bytes);
        }
        all.finish()
    }

    fn rules(self) -> Result<Rules> {
        let config = self.config?;
        let tls = config.tls.as_ref().zip(self.material).map(|(tls, material)| material.server_config(tls));
        Ok(Rules {
            tls: tls.transpose().context("set up TLS")?,
            certificate_required: config.tls.is_some_and(|tls| tls.certificate_required),
            users: Users::new(config.users),
        })
    }
}
