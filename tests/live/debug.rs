//! The debug server.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use pprof::protos::{Message, Profile};
use serde_json::Value;

use super::control::Operated;
use super::eventually;
use super::net::quiet_pair;
use super::traffic::{Flood, transfer};
use crate::needs_root;
use crate::support::netns::Netns;

/// The address in the log.
fn address(agent: &Operated) -> SocketAddr {
    let line = agent.program.log.iter().find(|line| line.contains("debug server on http://")).unwrap();
    let rest = line.split("http://").nth(1).unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

fn asked(ns: &Netns, to: SocketAddr, request: &str) -> (u16, Vec<u8>) {
    let mut stream = ns.run(|| TcpStream::connect(to)).unwrap();
    stream.set_read_timeout(Some(2 * super::PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), answer[end + 4..].to_vec())
}

fn json(ns: &Netns, to: SocketAddr, path: &str) -> Value {
    let (status, body) = asked(ns, to, &format!("GET {path}"));
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// The number of a profile's samples with a function whose name contains `part`.
fn samples_in(profile: &Profile, part: &str) -> i64 {
    let name = |location: &u64| {
        let location = profile.location.iter().find(|found| found.id == *location).unwrap();
        let function = profile.function.iter().find(|found| found.id == location.line[0].function_id).unwrap();
        profile.string_table[function.name as usize].as_str()
    };
    let has = |locations: &[u64]| locations.iter().any(|location| name(location).contains(part));
    profile.sample.iter().filter(|sample| has(&sample.location_id)).map(|sample| sample.value[0]).sum()
}

#[test]
fn a_profile_of_a_busy_agent() {
    needs_root!();
    let (a, b) = quiet_pair();
    let mut agent =
        Operated::start(&b, "profile", &["--debug-server", "127.0.0.1:0", "--set", "performance.batch_size=1"]);
    let to = address(&agent);
    let flood = Flood::start(&a, "10.9.0.2".parse().unwrap());
    let path = "GET /debug/pprof/profile?seconds=2";
    let mut answer = std::thread::scope(|scope| {
        let taken = scope.spawn(|| asked(&b, to, path));
        agent.program.wait_for("taking a CPU profile");
        let (status, other) = asked(&b, to, "GET /debug/pprof/profile?seconds=1");
        assert!(status == 409 && other.starts_with(b"a profile is being taken"), "{status}");
        // Programs are loaded at the same time: the verifier gives up at a signal.
        for enabled in ["false", "true"] {
            agent.says(&["config", "set", &format!("features.latency_tracking.enabled={enabled}")]);
        }
        taken.join().unwrap()
    });
    // A busy machine yields few samples per second. Inlined functions have no path in their names if only line tables
    // are in the debug information.
    let profile = eventually("a profile with the workers in it", || {
        let (status, body) = &answer;
        assert_eq!(*status, 200, "{}", String::from_utf8_lossy(body));
        let profile = Profile::decode(body.as_slice()).unwrap();
        let found = ["netmon::pipeline::worker::", "merge_prepared"].iter().all(|name| samples_in(&profile, name) > 0);
        if !found {
            answer = asked(&b, to, path);
        }
        found.then_some(profile)
    });
    assert_eq!(profile.period, 1_000_000_000 / 99);
    flood.stop();
    // No packet was lost, and the agent still runs.
    agent.program.signal("TERM");
    let (status, _, log) = agent.program.end();
    assert!(status.success(), "{log:#?}");
    let books = log.iter().find(|line| line.contains("stopped after")).unwrap();
    assert!(books.contains("(exact)"), "{books}");
}

#[test]
fn flows_by_the_page_and_the_configuration() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "pages", &["--debug-server", "127.0.0.1:0", "--set", "performance.workers=3"]);
    let to = address(&agent);
    transfer(&a, &b, "10.9.0.2".parse().unwrap(), 40, 100);
    let all = eventually("all flows", || {
        let mut flows = Vec::new();
        let mut cursor = String::new();
        for _ in 0..100 {
            let page = json(&b, to, &format!("/debug/flows?limit=7&cursor={cursor}"));
            let some = page["flows"].as_array().unwrap().clone();
            assert!(some.len() == 7 || page["next"].is_null(), "{page}");
            flows.extend(some);
            match page["next"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        (flows.len() == 40).then_some(flows)
    });
    let ids: HashSet<u64> = all.iter().map(|flow| flow["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 40);
    assert!(all.iter().all(|flow| flow["server_ip"] == "10.9.0.2"));
    let values = json(&b, to, "/debug/config");
    let workers = values.as_array().unwrap().iter().find(|value| value["key"] == "performance.workers").unwrap();
    assert_eq!((&workers["value"], &workers["origin"]), (&"3".into(), &"flag --set performance.workers".into()));
    for (request, wanted, part) in [
        ("GET /debug/pprof/", 200, "/debug/pprof/profile"),
        ("GET /", 200, "/debug/flows"),
        ("GET /debug/pprof/profile?seconds=0", 400, "from 1 to 300"),
        ("GET /debug/pprof/profile?second=1", 400, "no parameter second"),
        ("GET /debug/flows?limit=0", 400, "from 1 to 1000"),
        ("GET /debug/flows?cursor=here", 400, "cursor=here"),
        ("GET /debug/config?key=x", 400, "no parameter key"),
        ("GET /debug/nothing", 404, "no such page"),
        ("POST /debug/config?performance.workers=1", 405, "use GET"),
        ("DELETE /debug/flows", 405, "use GET"),
        ("HEAD /debug/pprof/profile?seconds=1", 405, ""),
    ] {
        let (status, body) = asked(&b, to, request);
        let body = String::from_utf8_lossy(&body);
        assert!(status == wanted && body.contains(part), "{request}: {status}: {body}");
    }
}

#[test]
fn where_it_listens() {
    needs_root!();
    let (a, b) = quiet_pair();
    let off = Operated::start(&b, "off", &[]);
    let quiet = |log: &[String]| !log.iter().any(|line| line.contains("debug server"));
    assert!(quiet(&off.program.log), "{:#?}", off.program.log);
    drop(off);
    let loopback = Operated::start(&b, "loopback", &["--debug"]);
    assert_eq!(address(&loopback).to_string(), "127.0.0.1:6060");
    let there: SocketAddr = "10.9.0.2:6060".parse().unwrap();
    assert!(a.run(|| TcpStream::connect(there)).is_err(), "others do not reach it");
    drop(loopback);
    let all = Operated::start(&b, "all", &["--debug-server", ":6060"]);
    assert_eq!(address(&all).port(), 6060);
    assert!(all.program.log.iter().any(|line| line.contains("may read flows")), "{:#?}", all.program.log);
    assert!(json(&a, there, "/debug/flows")["flows"].is_array());
}
