//! More flows than the table holds, and runs that are interrupted.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::written::{CLIENT, MS, S, Written};
use super::{NETMON, flows_of, text};
use crate::live::eventually;
use crate::needs_root;

/// Every flow is printed, and every packet is in a flow, including flows that were evicted.
#[test]
fn a_full_table_loses_nothing() {
    needs_root!();
    let mut capture = Written::default();
    for n in 0..3000u64 {
        capture.udp(n * 20 * MS, CLIENT, 10_000 + (n % 1000) as u16, 10);
    }
    let file = capture.file();
    let run = |most: &str| {
        let mut command = Command::new(NETMON);
        command.args(["replay", "-o", "json", file.0.to_str().unwrap()]).env("NETMON_FLOW_MAX_FLOWS", most);
        command.output().unwrap()
    };
    let packets = |output| flows_of(output).iter().map(|f| f["client_packets"].as_u64().unwrap()).sum::<u64>();
    let roomy = run("1000");
    assert_eq!((flows_of(&roomy).len(), packets(&roomy)), (1000, 3000));
    let narrow = run("100");
    assert_eq!(packets(&narrow), 3000);
    let flows = flows_of(&narrow);
    assert_eq!(flows.len(), 3000, "each was evicted before its next packet");
    let warning = text(&narrow.stderr);
    assert!(warning.contains("2900 flows were cut short for lack of room"), "{warning}");
}

/// A capture from a pipe that does not end: the flows so far are printed.
#[test]
fn an_interrupted_replay_prints_its_flows() {
    needs_root!();
    let mut capture = Written::default();
    for n in 0..100 {
        capture.udp(n * S, CLIENT, 50000, 10);
    }
    let mut child = Command::new(NETMON)
        .args(["replay", "-o", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&std::fs::read(&capture.file().0).unwrap()).unwrap();
    input.flush().unwrap();
    // Once it waits in poll(2) or ppoll(2), it has read and played everything available.
    let waits_in = format!("/proc/{}/syscall", child.id());
    eventually("it waits for more", || {
        let call = std::fs::read_to_string(&waits_in).unwrap();
        ["7 ", "73 ", "271 "].iter().any(|poll| call.starts_with(poll)).then_some(())
    });
    crate::support::sh(&format!("kill -INT {}", child.id()));
    let status = child.wait().unwrap();
    drop(input);
    let (mut out, mut error) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(error.contains("interrupted"), "{error}");
    assert_eq!(out.lines().count(), 1, "{out}");
}
