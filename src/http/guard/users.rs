//! Users and their passwords. A password is checked with bcrypt, which is slow by design: once for each user, then a keyed digest of it
//! is compared.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcrypt::HashParts;
use hyper::header::{AUTHORIZATION, HeaderMap};
use ring::hmac::{HMAC_SHA256, Key, Tag, sign, verify};
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::lock;

/// Salt and hash of a password that nobody has, in the form that follows the cost.
const NOBODY: &str = "HlFShUxTu4ZHHfOLJwfmCeDj/kuKFKboanXtDJXxCC7aIPTUgxNDe";

/// The users there are.
pub(super) struct Users {
    hashes: BTreeMap<String, String>,
    /// What the password of an unknown user is compared with: it takes as long as that of a known one.
    nobody: String,
}

/// What a request says about who asks.
pub(super) struct Credentials {
    user: String,
    password: Vec<u8>,
}

/// Passwords that were found to be right.
pub(super) struct Verified {
    /// Lives no longer than the process: a tag says nothing without it.
    key: Key,
    /// One for each user at most, over the hash and the password.
    tags: Mutex<HashMap<String, Tag>>,
    /// One password is checked at a time: whoever guesses takes one CPU at most, and leaves threads for pages.
    turn: Arc<Semaphore>,
}

impl Users {
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Users {
        let cost = |hash: &String| hash.parse().as_ref().map_or(0, HashParts::get_cost);
        let cost = hashes.values().map(cost).max().unwrap_or_default();
        Users { hashes, nobody: format!("$2b${cost:02}${NOBODY}") }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }
}

impl Credentials {
    /// Those of the basic scheme (RFC 7617), if the headers have any.
    pub(super) fn of(headers: &HeaderMap) -> Option<Credentials> {
        let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(encoded.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = decoded.split_at(colon);
        Some(Credentials { user: std::str::from_utf8(user).ok()?.to_owned(), password: password.get(1..)?.to_vec() })
    }

    fn with(&self, hash: &str) -> Vec<u8> {
        [hash.as_bytes(), &self.password].concat()
    }
}

impl Verified {
    pub(super) fn new() -> Result<Verified> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| anyhow!("the kernel gives no random numbers"))?;
        Ok(Verified { key, tags: Mutex::default(), turn: Arc::new(Semaphore::new(1)) })
    }

    /// The password was right before, and the user's hash is the same.
    pub(super) fn has(&self, users: &Users, credentials: &Credentials) -> bool {
        let tag = lock::ignoring_poison(&self.tags).get(&credentials.user).copied();
        let (Some(tag), Some(hash)) = (tag, users.hashes.get(&credentials.user)) else { return false };
        verify(&self.key, &credentials.with(hash), tag.as_ref()).is_ok()
    }

    /// Whether the password is right. That takes some time, and other passwords' turns may come first.
    pub(super) async fn verify(&self, users: &Users, credentials: Credentials) -> bool {
        let known = users.hashes.get(&credentials.user);
        let hash = known.unwrap_or(&users.nobody).clone();
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return false };
        // It may have been the same password's turn meanwhile.
        if self.has(users, &credentials) {
            return true;
        }
        let (tag, user) = (sign(&self.key, &credentials.with(&hash)), credentials.user);
        let right = spawn_blocking(move || {
            // It lasts until this has ended, even if the client is gone by then.
            let _turn = turn;
            bcrypt::verify(&credentials.password, &hash).unwrap_or(false)
        });
        let right = right.await.unwrap_or(false) && known.is_some();
        if right {
            lock::ignoring_poison(&self.tags).insert(user, tag);
        }
        right
    }

    /// Forgets those that are no users any more.
    pub(super) fn keep(&self, users: &Users) {
        lock::ignoring_poison(&self.tags).retain(|user, _| users.hashes.contains_key(user));
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use tokio::runtime::Builder;

    use super::*;

    fn users(pairs: &[(&str, &str)]) -> Users {
        let hash = |&(user, password): &(&str, &str)| (user.to_owned(), bcrypt::hash(password, 4).unwrap());
        Users::new(pairs.iter().map(hash).collect())
    }

    fn credentials(text: &str) -> Option<Credentials> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(text).unwrap());
        Credentials::of(&headers)
    }

    fn given(user: &str, password: &str) -> Credentials {
        credentials(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).unwrap()
    }

    #[test]
    fn credentials_are_read() {
        let read = given("me", "a:b:é");
        assert_eq!((read.user.as_str(), read.password.as_slice()), ("me", "a:b:é".as_bytes()));
        assert!(credentials(&format!("bASIC {}", STANDARD.encode(":"))).is_some());
        for wrong in ["", "Basic", "Basic ", "Bearer bWU6eA==", "Basic bWU", "Basic bWU=", "Basic %%%"] {
            assert!(credentials(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_right_password_is_checked_once() {
        let verified = Verified::new().unwrap();
        let runtime = Builder::new_current_thread().build().unwrap();
        let right =
            |users: &Users, user: &str, password: &str| runtime.block_on(verified.verify(users, given(user, password)));
        let both = users(&[("a", "one"), ("b", "two")]);
        for (user, password) in [("a", "two"), ("b", "one"), ("a", ""), ("c", "one"), ("", "")] {
            assert!(!right(&both, user, password) && !verified.has(&both, &given(user, password)), "{user} {password}");
        }
        assert!(right(&both, "a", "one") && verified.has(&both, &given("a", "one")));
        assert!(!verified.has(&both, &given("a", "two")) && !verified.has(&both, &given("b", "one")));
        let changed = users(&[("a", "three"), ("b", "two")]);
        assert!(!verified.has(&changed, &given("a", "one")) && !right(&changed, "a", "one"));
        assert!(verified.has(&both, &given("a", "one")), "its hash is the same as before");
        verified.keep(&users(&[("b", "two")]));
        assert!(!verified.has(&both, &given("a", "one")));
    }

    /// A shorter time would tell that there is no such user.
    #[test]
    fn nobody_costs_as_much_as_a_user() {
        let users = users(&[("a", "one")]);
        let cost = |hash: &str| hash.parse::<HashParts>().unwrap().get_cost();
        assert_eq!((cost(&users.nobody), cost(&users.hashes["a"])), (4, 4));
    }
}
