//! The report of a flow's end has everything about the flow.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;

use super::control::Operated;
use super::net::{Counters, quiet_pair};
use super::{PATIENCE, eventually};
use crate::needs_root;

const CONNECTIONS: usize = 60;

/// Connections with three answers, closed by FIN or by RST right after data in both directions.
#[test]
fn an_end_is_reported_when_everything_is_known() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "ended", &[]);
    let (_watch, lines) = agent.follow(&["flows", "watch", "-o", "json"]);
    let listener = b.run(|| TcpListener::bind("10.9.0.2:8080").unwrap());
    std::thread::spawn(move || {
        for served in listener.incoming() {
            let mut served = served.unwrap();
            served.set_read_timeout(Some(PATIENCE)).unwrap();
            while served.read_exact(&mut [0; 100]).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
                if served.write_all(&[1; 1000]).is_err() {
                    break;
                }
            }
            let _ = served.write_all(b"a last word");
        }
    });
    let converse = |number: usize| {
        let mut client = a.run(|| std::net::TcpStream::connect("10.9.0.2:8080").unwrap());
        for _ in 0..3 {
            client.write_all(&[2; 100]).unwrap();
            client.read_exact(&mut [0; 1000]).unwrap();
        }
        if number % 2 == 1 {
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        } else {
            client.shutdown(Shutdown::Write).unwrap();
            client.read_to_end(&mut Vec::new()).unwrap();
        }
        client.local_addr().unwrap().port()
    };
    let event = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let is_end = |e: &Value| e["event"] == "end" || e["event"] == "fail";
    // Repeat until the watch is connected, and until the flows for that are over.
    let last = eventually("the watch reports", || {
        let port = converse(0);
        lines.try_iter().next().map(|_| port)
    });
    eventually("the last of these ends", || {
        lines.try_iter().map(event).find(|e| is_end(e) && e["client_port"] == last)
    });
    let before = Counters::read(&b, "vb");
    let ports: Vec<u16> = (0..CONNECTIONS).map(converse).collect();
    let mut ended: Vec<Value> = Vec::new();
    eventually("every end is reported", || {
        let of_these = |e: &Value| e["client_port"].as_u64().is_some_and(|port| ports.contains(&(port as u16)));
        ended.extend(lines.try_iter().map(event).filter(|e| is_end(e) && of_these(e)));
        (ended.len() == CONNECTIONS).then_some(())
    });
    let seen = Counters::read(&b, "vb").since(before);
    let sum = |field: &str| ended.iter().map(|e| e[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("client_packets"), sum("client_bytes")), (seen.rx.packets, seen.rx.bytes));
    assert_eq!((sum("server_packets"), sum("server_bytes")), (seen.tx.packets, seen.tx.bytes));
    for (number, port) in ports.iter().enumerate() {
        let end = ended.iter().find(|e| e["client_port"] == *port).unwrap();
        assert_eq!(end["response_us"]["count"], 3, "{end}");
        assert!(end["handshake_server_us"].is_number() && end["handshake_client_us"].is_number(), "{end}");
        let reset_by = if number % 2 == 0 { Value::Null } else { "client".into() };
        assert_eq!((&end["status"], &end["reset_by"]), (&"ok".into(), &reset_by), "{end}");
    }
}
