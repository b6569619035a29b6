//! What the control socket is asked, and how it understands that.

use netmon::control::respond;
use serde_json::Value;

use crate::fuzz::targets::Agent;

/// Status, and the lines of the answer.
pub fn ask(method: &str, target: &str) -> (u16, String) {
    let mut out = Vec::new();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: netmon\r\n\r\n");
    respond(request.as_bytes(), &Agent, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn ids(target: &str) -> Vec<u64> {
    let (status, body) = ask("GET", target);
    assert_eq!(status, 200, "{target}: {body}");
    // Between them are the lengths of chunks.
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

#[test]
fn nothing_is_passed_over() {
    for (method, target, told) in [
        ("GET", "/v1/flows?reverse", "sort"),
        ("GET", "/v1/flows?columns=80", "a table alone"),
        ("GET", "/v1/flows?output=table&columns=70000", "at most 65535"),
        ("GET", "/v1/flows?limit=1&limit=2", "given twice"),
        ("GET", "/v1/flows?limt=1", "there is no parameter limt"),
        ("GET", "/v1/flows?limit=-1", "no whole number"),
        ("GET", "/v1/config?key=flow", "flow is a section, and no key"),
        ("POST", "/v1/config?key=flow.max_flows.x&value=1", "flow.max_flows has a value"),
        ("POST", "/v1/config?key=flow.max_flow&value=1", "did you mean flow.max_flows?"),
        ("GET", "/v1/flows?filter=interface~{{{{{{{{{{a}}}}}}}}}}", "braces"),
    ] {
        let (status, body) = ask(method, target);
        assert!((400..500).contains(&status) && body.contains(told), "{target}: {status} {body}");
    }
}
