//! One request, read within bounds.

// What others wrote: no place in it is known to be there.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::http::parameters;

/// Headers that a request may have.
const HEADERS: usize = 32;

/// What is asked for. Parameters come with the path; there is no body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) parameters: BTreeMap<String, String>,
}

/// Why there is none; an HTTP status, and words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) u16, pub(super) String);

/// Reads a request of at most `most` bytes within `time`; calls `part` when a part of it has come. `None`: the client went away
/// without one.
pub(super) fn read(
    stream: &mut UnixStream,
    most: usize,
    time: Duration,
    part: impl Fn() -> bool,
) -> Result<Option<Request>, Refusal> {
    let end = Instant::now() + time;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let late = || Refusal(408, format!("no whole request came within {time:?}"));
        if left.is_zero() {
            return Err(late());
        }
        // Zero would mean for ever.
        let _ = stream.set_read_timeout(Some(left.max(Duration::from_millis(1))));
        match stream.read(&mut piece) {
            Ok(0) if bytes.is_empty() => return Ok(None),
            Ok(0) => return Err(Refusal(400, "the request ends in its middle".to_owned())),
            Ok(count) => bytes.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(late());
            }
            Err(error) => return Err(Refusal(400, format!("read the request: {error}"))),
        }
        if let Some(request) = parse(&bytes)? {
            return Ok(Some(request));
        }
        if bytes.len() >= most {
            return Err(Refusal(431, format!("a request has at most {most} bytes")));
        }
        let _ = part();
    }
}

/// `None` while it is not whole.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Request>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(error) => return Err(Refusal(400, format!("no HTTP request: {error}"))),
    }
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameters = parameters(query).map_err(|wrong| Refusal(400, wrong))?;
    let has_body = |header: &httparse::Header<'_>| match header.name.to_ascii_lowercase().as_str() {
        "content-length" => header.value != b"0",
        "transfer-encoding" => true,
        _ => false,
    };
    if parsed.headers.iter().any(has_body) {
        return Err(Refusal(400, "a body, which is not read: parameters come with the path".to_owned()));
    }
    Ok(Some(Request { method: parsed.method.unwrap_or_default().to_owned(), path: path.to_owned(), parameters }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_partial_and_broken() {
        let whole =
            parse(b"GET /v1/flows?filter=proto%3Dtcp+and%20port%3D1&limit=5 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let whole = whole.unwrap();
        assert_eq!((whole.method.as_str(), whole.path.as_str()), ("GET", "/v1/flows"));
        assert_eq!(whole.parameters["filter"], "proto=tcp and port=1");
        assert_eq!(whole.parameters["limit"], "5");
        assert_eq!(parse(b"GET /v1/flows HTTP/1.1\r\nHo"), Ok(None));
        assert_eq!(parse(b"\x00\x01\r\n\r\n").unwrap_err().0, 400);
        assert_eq!(parse(b"GET /?a=%ff HTTP/1.1\r\n\r\n").unwrap_err().0, 400);
        for (taken_for_something_else, told) in [
            (&b"GET /?limit=1&limit=2 HTTP/1.1\r\n\r\n"[..], "limit=2: given twice"),
            (b"POST /?key=a HTTP/1.1\r\nContent-Length: 7\r\n\r\nvalue=b", "a body"),
            (b"POST /?key=a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "a body"),
        ] {
            let refusal = parse(taken_for_something_else).unwrap_err();
            assert!(refusal.0 == 400 && refusal.1.contains(told), "{refusal:?}");
        }
        assert!(parse(b"POST /v1/reload HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap().is_some());
    }

    #[test]
    fn bounds_hold() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut theirs, &[b'a'; 20_000]).unwrap();
        let refused = read(&mut ours, 8192, Duration::from_secs(20), || true).unwrap_err();
        assert!(refused.0 == 431 || refused.0 == 400, "{refused:?}");
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut theirs, b"GET /").unwrap();
        assert_eq!(read(&mut ours, 8192, Duration::from_millis(50), || true).unwrap_err().0, 408);
        drop(theirs);
        assert_eq!(read(&mut ours, 8192, Duration::from_secs(20), || true), Ok(None));
    }
}
