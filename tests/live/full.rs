//! Lack of room for output and for open files. It is reported with a message if that can be written, and always by the
//! exit code.

use std::net::UdpSocket;
use std::process::Command;

use super::binary::NETMON;
use super::control::{CLI, Operated};
use super::eventually;
use super::net::quiet_pair;
use super::traffic::udp_to;
use crate::needs_root;

/// Runs a shell command with `$netmon` and `$cli`; returns its exit code and its messages.
fn shell(line: &str, socket: &str) -> (i32, String) {
    let mut command = Command::new("bash");
    command.args(["-c", line]).env("netmon", NETMON).env("cli", CLI).env("NETMON_SOCKET", socket);
    let output = command.output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn failures_to_print_are_reported() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "full", &[]);
    // A flow that stays open.
    let server = b.run(|| UdpSocket::bind("10.9.0.2:53").unwrap());
    eventually("a flow", || {
        a.run(|| udp_to(server.local_addr().unwrap()).send(b"hello").unwrap());
        (agent.json(&["stats", "flows"])["active"] != 0).then_some(())
    });
    let socket = agent.socket();
    let socket = socket.to_str().unwrap();
    for command in [
        "$netmon --help",
        "$netmon -h",
        "$netmon --version",
        "$netmon help replay",
        "$netmon check-system",
        "$netmon check-system -o json",
        "$netmon replay tests/captures/http.pcap",
        "$netmon replay -o json tests/captures/http.pcap",
        "$netmon replay -o csv tests/captures/http.pcap",
        "$cli --help",
        "$cli flows dump --help",
        "$cli --version",
        "$cli status",
        "$cli -o json status",
        "$cli flows dump",
        "$cli -o json flows dump",
        "$cli stats flows",
        "$cli stats series",
        "$cli config get",
        "$cli -o json config reload",
        "$cli -o json top --count 1",
        "$cli doctor",
        "$cli -o json check-system",
        "$cli support-bundle --output -",
        "timeout 20 $cli debug packet-trace on --for 1s --write -",
        "$cli completions bash",
        "$cli completions fish",
    ] {
        let (code, said) = shell(&format!("{command} >/dev/full"), socket);
        assert!(code != 0 && code != 101 && code != 124, "{command}: {code}: {said}");
        assert!(said.contains("No space left on device"), "{command}: {said}");
        // A closed pipe is no error, and does not change the results of the checks.
        let (code, said) = shell(&format!("set -o pipefail; {command} | true"), socket);
        assert!([0, 1].contains(&code) && !said.contains("panicked"), "{command}: {code}: {said}");
        assert!(!said.contains("Broken pipe"), "{command}: {said}");
    }
    // Without room for a message, the exit code shows the failure.
    for (command, wanted) in [
        ("$netmon --colour", 2),
        ("$netmon replay /nonexistent", 1),
        ("$netmon --set flow.max_age=soon", 1),
        ("$cli fly", 2),
        ("$cli --socket /nonexistent/sock status", 1),
        ("$cli config set flow.max_age=soon", 1),
        ("$cli support-bundle --output /nonexistent/file", 1),
        ("$cli --socket /nonexistent/sock support-bundle --output - >/dev/null", 1),
    ] {
        let (code, _) = shell(&format!("{command} 2>/dev/full"), socket);
        assert_eq!(code, wanted, "{command}");
    }
}

#[test]
fn too_few_files_may_be_open() {
    needs_root!();
    let (_a, b) = quiet_pair();
    for most in [8, 16, 32, 64, 100, 150] {
        let line = format!("ulimit -n {most}; exec {NETMON} --interface vb --metrics-addr 127.0.0.1:0 --socket none");
        let output = b.command("bash").args(["-c", &line]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{most}: {said}");
        assert!(said.contains(&format!("at most {most} files may be open")) && said.contains("ulimit -n"), "{said}");
    }
    for command in ["check-system", "replay tests/captures/http.pcap"] {
        for most in [8, 16, 32, 64] {
            let (code, said) = shell(&format!("ulimit -n {most}; exec $netmon {command} >/dev/null"), "/nonexistent");
            assert!([0, 1].contains(&code) && !said.contains("panicked"), "{command} of {most}: {code}: {said}");
        }
    }
}
