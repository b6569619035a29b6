//! Many requests, and large ones: the agent keeps working, within its bounds.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::control::Operated;
use super::net::quiet_pair;
use super::traffic::Flood;
use super::{PATIENCE, eventually};
use crate::needs_root;

fn resident_kib(agent: &Operated) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_thousand_requests_at_once_are_answered_or_refused() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "thousand", &[]);
    agent.says(&["status"]);
    let before = resident_kib(&agent);
    let ask = |path: &str| {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may be refused before everything is written.
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: netmon\r\n\r\n");
        stream
    };
    // These take half a second each, and occupy all places for a while.
    let slow: Vec<UnixStream> = (0..16).map(|_| ask("/v1/status")).collect();
    let asked: Vec<UnixStream> =
        (0..1000).map(|n| ask(["/v1/config", "/v1/stats/flows", "/v1/metrics"][n % 3])).collect();
    let mut most = 0;
    let mut codes = std::collections::BTreeMap::<String, usize>::new();
    for mut stream in slow.into_iter().chain(asked) {
        let mut answer = Vec::new();
        // If a request was refused unread, the connection is reset after the answer.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        *codes.entry(answer.split(' ').nth(1).unwrap_or_default().to_owned()).or_default() += 1;
        most = most.max(resident_kib(&agent));
    }
    assert_eq!(codes.values().sum::<usize>(), 1016, "{codes:?}");
    assert!(codes.keys().all(|code| ["200", "408", "503"].contains(&code.as_str())), "{codes:?}");
    assert!(codes["200"] >= 16 && codes["503"] > 0, "{codes:?}");
    assert!(most < before + 32 * 1024, "from {before} kB to {most} kB");
    eventually("its threads have gone", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", agent.program.pid())).unwrap().count();
        (threads < 16).then_some(())
    });
    assert!(agent.says(&["status"]).contains("vb"));
}

#[test]
fn dumps_lose_no_new_flows() {
    needs_root!();
    let (a, b) = quiet_pair();
    // The rings have room for some seconds: the test is that a dump does not block a worker for longer.
    let agent = Operated::start(&b, "dumps", &["--set", "performance.buffer_size=400000"]);
    let flood = Flood::start(&a, "10.9.0.2".parse().unwrap());
    let active = || agent.json(&["status"])["flows_active"].as_u64().unwrap();
    eventually("many flows", || (active() > 40_000).then_some(()));
    for _ in 0..5 {
        let dumped = agent.says(&["flows", "dump", "-o", "json"]).lines().count();
        assert!(dumped > 40_000, "{dumped} flows");
    }
    // A client that reads nothing blocks nothing.
    let mut stream = UnixStream::connect(agent.socket()).unwrap();
    write!(stream, "GET /v1/flows HTTP/1.1\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(flood.stop() > 40_000);
    let status = agent.json(&["status"]);
    assert_eq!((&status["records_lost"], &status["packets"]["lost"]), (&0.into(), &0.into()));
    assert!(status["unhealthy"].is_null(), "{status}");
}
