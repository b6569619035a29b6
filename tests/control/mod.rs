//! How the control socket interprets requests.

use std::sync::Arc;

use netmon::control::respond;
use serde_json::Value;

use crate::fuzz::targets::Agent;

/// The status and the lines of the answer.
pub fn ask(method: &str, target: &str) -> (u16, String) {
    let mut out = Vec::new();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: netmon\r\n\r\n");
    respond(request.as_bytes(), Arc::new(Agent), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn ids(target: &str) -> Vec<u64> {
    let (status, body) = ask("GET", target);
    assert_eq!(status, 200, "{target}: {body}");
    // The lengths of chunks are between them.
    let lines = body.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["id"].as_u64()).collect()
}

#[test]
fn a_switch_is_on_or_off() {
    let flows = "/v1/flows?sort=server_bytes";
    assert_eq!(ids(flows), [1, 0]);
    for (reverse, order) in
        [("", [0, 1]), ("=", [0, 1]), ("=true", [0, 1]), ("=1", [0, 1]), ("=false", [1, 0]), ("=0", [1, 0])]
    {
        assert_eq!(ids(&format!("{flows}&reverse{reverse}")), order, "{reverse}");
    }
    assert_eq!(ask("GET", "/v1/top?reverse=false").0, 200);
    for path in ["/v1/flows?sort=bytes&", "/v1/top?"] {
        let (status, body) = ask("GET", &format!("{path}reverse=maybe"));
        assert!(status == 400 && body.contains("reverse=maybe; valid: true, false"), "{body}");
    }
}

/// These characters must be encoded in the query of a URI, but people write them as they are.
#[test]
fn filters_are_understood_as_people_write_them() {
    assert_eq!(ids("/v1/flows?filter=server_bytes>0"), [1]);
    assert_eq!(ids("/v1/flows?filter=server_bytes<1"), [0]);
    assert_eq!(ids("/v1/flows?filter=status=\"failed\""), [1]);
    // The rest of the query is not cut off.
    let (status, body) = ask("GET", "/v1/flows?limit=1#2");
    assert!(status == 400 && body.contains("limit=1#2"), "{body}");
}

#[test]
fn what_is_no_request_is_refused() {
    let answer = |bytes: &[u8]| {
        let mut out = Vec::new();
        respond(bytes, Arc::new(Agent), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    for (bytes, status) in [
        (&b"\x00\x01\r\n\r\n"[..], "400"),
        (b"GET /?a=%ff HTTP/1.1\r\n\r\n", "400"),
        (b"HEAD /v1/status HTTP/1.1\r\n\r\n", "405"),
        (b"POST /v1/reload HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "200"),
        ([b"GET /v1/status HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 20_000]].concat().as_slice(), "431"),
    ] {
        let answer = answer(bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    for bytes in [
        &b"POST /v1/config?key=a HTTP/1.1\r\nContent-Length: 7\r\n\r\nvalue=b"[..],
        b"POST /v1/config?key=a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let answer = answer(bytes);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("{\"error\":\"a body"), "{answer}");
    }
    assert_eq!(answer(b""), "");
    assert_eq!(answer(b"GET /v1/status HTTP/1.1\r\nHo"), "");
}

#[test]
fn nothing_is_silently_ignored() {
    for (method, target, expected) in [
        ("GET", "/v1/flows?reverse", "sort"),
        ("GET", "/v1/flows?columns=80", "a table alone"),
        ("GET", "/v1/flows?output=table&columns=70000", "at most 65535"),
        ("GET", "/v1/flows?limit=1&limit=2", "given twice"),
        ("GET", "/v1/flows?limt=1", "there is no parameter limt"),
        ("GET", "/v1/flows?limit=-1", "no whole number"),
        ("GET", "/v1/config?key=flow", "flow is a section, not a key"),
        ("POST", "/v1/config?key=flow.max_flows.x&value=1", "flow.max_flows takes a value"),
        ("POST", "/v1/config?key=flow.max_flow&value=1", "did you mean flow.max_flows?"),
        ("GET", "/v1/flows?filter=interface~{{{{{{{{{{a}}}}}}}}}}", "braces"),
    ] {
        let (status, body) = ask(method, target);
        assert!((400..500).contains(&status) && body.contains(expected), "{target}: {status} {body}");
    }
}
