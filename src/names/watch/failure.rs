//! Why a request failed, and how long to wait before the next one.

use std::fmt;
use std::hash::BuildHasher;
use std::time::Duration;

use super::wire::Refusal;

/// Why a request failed, or a watch ended before its timeout.
#[derive(Debug)]
pub(super) enum Failure {
    /// The requested version is too old: the list must be read again.
    Gone(String),
    /// The credentials are invalid or have expired.
    Unauthorized(String),
    /// These credentials may not read the resource, or the server does not have it.
    Denied(String),
    /// The server asks the client to wait, or cannot serve the request.
    Busy(Option<Duration>, String),
    /// The server does not understand the request.
    Unknown(String),
    /// The response is larger than the limit.
    TooLarge(String),
    /// The connection failed or broke off.
    Lost(String),
    /// The response violates the protocol.
    Malformed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Gone(text)
            | Failure::Unauthorized(text)
            | Failure::Denied(text)
            | Failure::Busy(_, text)
            | Failure::Unknown(text)
            | Failure::TooLarge(text)
            | Failure::Lost(text)
            | Failure::Malformed(text) => f.write_str(text),
        }
    }
}

/// Most characters kept of a text that is not a `Status` of the server and may be a proxy's error page.
const TEXT_MOST: usize = 200;

impl Failure {
    /// Classifies an unsuccessful response. `retry_after`: the value of that header, in seconds.
    pub(super) fn of_response(code: u16, body: &[u8], retry_after: Option<u64>) -> Failure {
        match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) if !refusal.message.is_empty() => {
                let asked = Some(refusal.details.retry_after_seconds).filter(|&seconds| seconds > 0);
                let retry_after = retry_after.or(asked);
                Failure::of_refusal(Refusal { code, ..refusal }, retry_after)
            }
            _ => {
                let text = String::from_utf8_lossy(body);
                let message = text.trim().chars().take(TEXT_MOST).collect();
                Failure::of_refusal(Refusal { code, message, ..Refusal::default() }, retry_after)
            }
        }
    }

    /// Classifies an error that the server reports, in a response or within a watch.
    pub(super) fn of_refusal(refusal: Refusal, retry_after: Option<u64>) -> Failure {
        let Refusal { code, reason, message, .. } = refusal;
        let text = format!("the API server answered {code}: {message}");
        match code {
            410 => Failure::Gone(text),
            _ if matches!(reason.as_str(), "Expired" | "Gone") => Failure::Gone(text),
            400 | 422 => Failure::Unknown(text),
            401 => Failure::Unauthorized(text),
            403..=405 => Failure::Denied(text),
            _ => Failure::Busy(retry_after.map(Duration::from_secs), text),
        }
    }
}

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// A missing right may be granted a moment after the agent's start, by the same manifests; later it is seldom granted soon.
const DENIED: Duration = Duration::from_secs(60);
/// Longest wait that a server may ask for.
const RETRY_AFTER_MOST: Duration = Duration::from_secs(300);

/// Waits that grow while nothing succeeds. Each is randomised by up to half of it in both directions, because the agents of all
/// nodes see the same failure.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    pub(super) fn next(&mut self, failure: &Failure) -> Duration {
        let most = if matches!(failure, Failure::Denied(_)) { DENIED } else { LONGEST };
        let step = FIRST.saturating_mul(1 << self.failures.min(16)).min(most);
        self.failures += 1;
        match failure {
            Failure::Busy(Some(asked), _) => step.max(*asked).min(RETRY_AFTER_MOST) + jitter(step),
            _ => step / 2 + jitter(step),
        }
    }
}

/// Returns a random duration from zero to `most`.
pub(super) fn jitter(most: Duration) -> Duration {
    // The hasher's seeds differ between processes and between calls.
    let random = std::collections::hash_map::RandomState::new().hash_one(0u8);
    most.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        let lost = Failure::Lost(String::new());
        let mut backoff = Backoff::default();
        for i in 0..20 {
            let step = (FIRST * 2u32.pow(i.min(10))).min(LONGEST);
            let wait = backoff.next(&lost);
            assert!(wait >= step / 2 && wait <= step * 3 / 2, "{i}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next(&lost) <= FIRST * 3 / 2);
        let denied = Failure::Denied(String::new());
        let waits: Vec<Duration> = (0..12).map(|_| Backoff::default().next(&denied)).collect();
        assert!(waits.iter().all(|wait| *wait <= FIRST * 3 / 2), "the right may be granted soon: {waits:?}");
        let last = (0..12).fold(Duration::ZERO, |_, _| backoff.next(&denied));
        assert!(last >= DENIED / 2, "{last:?}");
        let many: std::collections::BTreeSet<Duration> = (0..10).map(|_| Backoff::default().next(&lost)).collect();
        assert!(many.len() > 1, "all agents would retry at once");
    }

    #[test]
    fn a_server_s_retry_time_is_respected() {
        for (body, header, least) in [
            (&b"Too many requests, please try again later."[..], Some(7), 7),
            (br#"{"kind":"Status","code":429,"message":"busy","details":{"retryAfterSeconds":9}}"#, None, 9),
            (b"", Some(100_000), 300),
        ] {
            let failure = Failure::of_response(429, body, header);
            let wait = Backoff::default().next(&failure);
            assert!(wait >= Duration::from_secs(least) && wait <= Duration::from_secs(least + 1), "{wait:?}");
        }
    }

    #[test]
    fn responses_are_classified() {
        let status = |code: u16, reason: &str| {
            format!(r#"{{"kind":"Status","code":{code},"reason":"{reason}","message":"so it is"}}"#)
        };
        let of = |code: u16, reason: &str| Failure::of_response(code, status(code, reason).as_bytes(), None);
        assert!(matches!(of(410, "Expired"), Failure::Gone(_)));
        assert!(matches!(of(400, "Expired"), Failure::Gone(_)));
        assert!(matches!(of(401, "Unauthorized"), Failure::Unauthorized(_)));
        assert!(matches!(of(403, "Forbidden"), Failure::Denied(_)));
        assert!(matches!(of(500, "InternalError"), Failure::Busy(None, _)));
        assert_eq!(of(503, "").to_string(), "the API server answered 503: so it is");
        let page = Failure::of_response(502, "<html>\u{e9}".repeat(100).as_bytes(), None).to_string();
        assert!(page.chars().count() < 250, "{page}");
    }
}
