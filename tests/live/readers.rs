//! Slow readers of the control socket, with a large table and little memory: no flows are evicted for them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;

use super::control::Operated;
use super::eventually;
use super::net::quiet_pair;
use super::traffic::Flood;
use crate::needs_root;

const LIMIT_MIB: u64 = 96;
const FLOWS: u64 = 110_000;

fn resident_mib(agent: &Operated) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

/// Reads an answer slowly until `stop`; returns its beginning.
fn read_slowly(agent: &Operated, path: &str, stop: &AtomicBool, read: &AtomicU64) -> String {
    let mut stream = UnixStream::connect(agent.socket()).unwrap();
    stream.set_read_timeout(Some(2 * super::PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: netmon\r\n\r\n").unwrap();
    let (mut beginning, mut piece) = (Vec::new(), [0; 16 << 10]);
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        read.fetch_add(count as u64, Relaxed);
        if beginning.len() < 1000 {
            beginning.extend(&piece[..count]);
        }
        if stop.load(Relaxed) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    String::from_utf8_lossy(&beginning).into_owned()
}

#[test]
fn slow_readers_evict_no_flows() {
    needs_root!();
    let (a, b) = quiet_pair();
    let limit = format!("resources.memory_limit={LIMIT_MIB}Mi");
    let agent = Operated::start(&b, "readers", &["--set", &limit]);
    // There is no host that refuses anything, so the flows stay as they are.
    a.sh("ip neigh replace 10.9.0.77 lladdr 02:00:00:00:09:02 dev va nud permanent");
    let floods: Vec<Flood> = (0..2).map(|_| Flood::start(&a, "10.9.0.77".parse().unwrap())).collect();
    let number = |status: &Value, name: &str| status[name].as_u64().unwrap();
    eventually("many flows", || (number(&agent.json(&["status"]), "flows_active") >= FLOWS).then_some(()));
    drop(floods);
    let before = agent.json(&["status"]);
    assert_eq!(number(&before, "flows_evicted"), 0, "{before}");
    let resident = resident_mib(&agent);
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let (answers, most) = std::thread::scope(|scope| {
        let paths = [
            "/v1/flows?sort=bytes",
            "/v1/flows?sort=bytes&output=table",
            "/v1/flows?sort=client_port&reverse",
            "/v1/flows?sort=start&limit=50000",
            "/v1/flows",
            "/v1/flows?output=table",
            "/v1/flows?output=csv&filter=client_port>0",
            "/v1/flows?sort=bytes&output=table",
        ];
        let readers = paths.map(|path| scope.spawn(|| read_slowly(&agent, path, &stop, &read)));
        // By now, each has had time to receive everything that is buffered for it, and the limit has been checked many
        // times.
        let mut most = 0;
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            most = most.max(resident_mib(&agent));
        }
        assert!(agent.says(&["config", "get"]).contains("performance.workers"), "others are answered");
        stop.store(true, Relaxed);
        (readers.map(|reader| reader.join().unwrap()), most)
    });
    let after = agent.json(&["status"]);
    eprintln!(
        "{} flows, {resident} MiB; with 8 slow readers, which read {} KiB, {most} MiB at most; evicted: {}",
        before["flows_active"],
        read.load(Relaxed) >> 10,
        after["flows_evicted"]
    );
    assert_eq!(number(&after, "flows_evicted"), 0, "from {resident} MiB to {most} MiB");
    assert!(number(&after, "flows_active") >= FLOWS, "{after}");
    assert!(most < LIMIT_MIB, "{most} MiB");
    for answer in &answers {
        let refused = answer.starts_with("HTTP/1.1 503") && answer.contains("clients hold all of the 12 MiB");
        assert!(answer.starts_with("HTTP/1.1 200") || refused, "{answer}");
    }
    assert!(answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count() >= 6, "{answers:?}");
    // A sorted answer is in order from the first line to the last.
    let sorted = agent.says(&["flows", "dump", "-o", "json", "--sort", "client_port", "--reverse", "--limit", "1000"]);
    let ports: Vec<u64> = sorted
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["client_port"].as_u64().unwrap())
        .collect();
    assert!(ports.len() == 1000 && ports.is_sorted(), "{ports:?}");
}
