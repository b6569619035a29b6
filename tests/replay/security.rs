//! What a replay says of hostile traffic, if it is asked to look for it.

use std::process::{Command, Output};

use super::written::{CLIENT, Connection, SERVER, Written};
use super::{NETMON, captures, text};
use crate::needs_root;
use crate::support::packet::ACK;

fn look(file: &str) -> Output {
    let mut command = Command::new(NETMON);
    command.args(["replay", "-o", "json", file]).env("NETMON_FEATURES_SECURITY_MONITORING_ENABLED", "true");
    command.output().unwrap()
}

/// Real servers and clients, retransmissions, failures: nothing of it is an attack.
#[test]
fn no_capture_looks_hostile() {
    needs_root!();
    for capture in captures() {
        let output = look(capture.to_str().unwrap());
        assert!(output.status.success(), "{}: {}", capture.display(), text(&output.stderr));
        let said = text(&output.stderr);
        assert!(!said.contains("security:"), "{}: {said}", capture.display());
    }
}

/// Ports that refuse, one a second: the event has the capture's time.
#[test]
fn a_scan_in_a_capture_is_told() {
    needs_root!();
    let scan = |ports: u16| {
        let mut capture = Written::default();
        for port in 0..ports {
            // The server's port is always 80 here, so the server is the one that scans: it asks for ports of the client.
            let mut connection = Connection::new(10_000 + port);
            let at = u64::from(port) * 100 * super::written::MS;
            capture.tcp(at, SERVER, &mut connection, 2, 0);
            capture.tcp(at + 1000, CLIENT, &mut connection, 4 | ACK, 0);
        }
        text(&look(capture.file().0.to_str().unwrap()).stderr)
    };
    assert!(!scan(14).contains("security:"), "one below the threshold");
    let said = scan(15);
    let sentence = "security: port_scan: 10.0.0.2 tried 15 ports of 10.0.0.1 that refused or did not answer, within 2s";
    assert!(said.contains(sentence), "{said}");
    assert!(said.contains(", at 2024-06-10T06:13:"), "{said}");
}
