//! Detectors recognise what real implementations send.

use serde_json::Value;

use super::flows;
use crate::needs_root;

/// The client's port and the protocol of each flow.
fn spoken(input: &str) -> Vec<(u64, String)> {
    let by =
        |flow: &Value| (flow["client_port"].as_u64().unwrap(), flow["app_protocol"].as_str().unwrap_or("").to_owned());
    let mut spoken: Vec<_> = flows(input).iter().map(by).collect();
    spoken.sort();
    spoken
}

fn all(ports: impl IntoIterator<Item = u64>, app: &str) -> Vec<(u64, String)> {
    ports.into_iter().map(|port| (port, app.to_owned())).collect()
}

/// MariaDB no longer has "5.5.5-" in front of its version, and a proxy may have any version.
#[test]
fn a_mysql_server_may_have_any_version() {
    needs_root!();
    assert_eq!(spoken("mariadb11.pcap"), all(41000..=41006, "mysql"));
}

/// RFC 5321 2.4: verbs are not case-sensitive.
#[test]
fn smtp_verbs_may_be_in_lower_case() {
    needs_root!();
    assert_eq!(spoken("smtp_lower_case.pcap"), all([48100, 48101, 48102, 48110], "smtp"));
}

#[test]
fn a_proxy_header_hides_no_protocol() {
    needs_root!();
    let apps = ["http", "postgres", "redis", "redis", "mqtt"];
    let expected: Vec<_> = (0..15).map(|n| (47000 + n as u64, apps[n % 5].to_owned())).collect();
    assert_eq!(spoken("proxy_protocol.pcap"), expected);
}

#[test]
fn redis_takes_commands_on_a_line() {
    needs_root!();
    assert_eq!(spoken("r.pcap"), all([49132], "redis"));
}
