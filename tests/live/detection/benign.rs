//! What looks hostile at first, and is not.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{ATTACKER, BOTH, Expected, Scene, VICTIM, neighbour, nobody, run};
use crate::needs_root;

/// Ports that a client tries again and again, fewer than make a scan.
const CLOSED: std::ops::RangeInclusive<u16> = 7001..=7010;

/// Tries the closed ports every two and a half seconds, as clients do that wait for their server.
fn reconnect(times: u32) {
    for _ in 0..times {
        let start = Instant::now();
        for v6 in BOTH {
            let server: IpAddr = VICTIM.at(v6).parse().unwrap();
            for port in CLOSED {
                let refused = TcpStream::connect_timeout(&SocketAddr::new(server, port), super::PATIENCE);
                assert!(refused.is_err());
            }
        }
        std::thread::sleep(Duration::from_millis(2500).saturating_sub(start.elapsed()));
    }
}

/// Opens a thousand connections a second to a server for eight seconds, which is no flood, because each is completed.
fn be_busy() {
    let server: SocketAddr = (VICTIM.v4.parse::<IpAddr>().unwrap(), 8080).into();
    let start = Instant::now();
    for number in 0..8000 {
        drop(TcpStream::connect(server).unwrap());
        std::thread::sleep((Duration::from_millis(1) * number).saturating_sub(start.elapsed()));
    }
}

/// Afterwards comes a scan that has to wait as long as any event of the others: it is the only one.
#[test]
fn traffic_of_all_kinds() {
    needs_root!();
    let scene = Scene::with("benign", &["flow.connect_timeout=2s"]);
    // An address for the scanner alone.
    scene.attacker.sh("ip addr add 10.8.0.9/24 dev va");
    let _web = scene.victim.run(|| BOTH.map(|v6| serve(if v6 { "[::]:8080" } else { "0.0.0.0:8080" })));
    std::thread::scope(|scope| {
        let attacker = &scene.attacker;
        scope.spawn(|| attacker.run(|| reconnect(4)));
        scope.spawn(|| attacker.run(be_busy));
        for v6 in BOTH {
            let url = |number| match v6 {
                false => format!("http://{}:8080/", neighbour(v6, number)),
                true => format!("http://[{}]:8080/", neighbour(v6, number)),
            };
            let urls: Vec<String> = (2..32).map(url).collect();
            let pings: Vec<String> = (1..6).map(|number| nobody(v6, number)).collect();
            scope.spawn(move || {
                // As browsers do: many servers at once.
                attacker.sh(&format!(
                    "curl -sS --parallel --parallel-immediate --output /dev/null {}",
                    urls.join(" --output /dev/null ")
                ));
            });
            scope.spawn(move || {
                for host in pings {
                    attacker.sh(&format!("ping -q -c 3 -i 0.2 -W 1 {host} || true"));
                }
            });
            scope.spawn(move || {
                let (known, unknown) = (VICTIM.at(v6), nobody(v6, 7));
                for options in ["", "-T", "-I"] {
                    attacker
                        .sh(&format!("traceroute -n -w 1 -q 3 {options} {known} && traceroute -n -w 1 -m 9 {unknown}"));
                }
            });
        }
    });
    assert_eq!(scene.events(), [] as [serde_json::Value; 0]);
    let _tool = scene.attack("nmap", "-n -Pn -sS -e va -S 10.8.0.9 -p 22 10.71.0.2-31");
    let settled = Instant::now();
    scene.expect(&[Expected { port: Some(22), ..Expected::of("address_scan", "10.8.0.9", None, "refused") }]);
    assert!(settled.elapsed() > Duration::from_secs(30), "others had time to be reported");
}

/// Answers each connection with a page, for as long as the test runs.
fn serve(at: &str) -> SocketAddr {
    use std::io::{Read, Write};
    let listener = {
        let at: SocketAddr = at.parse().unwrap();
        let domain = socket2::Domain::for_address(at);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        if at.is_ipv6() {
            socket.set_only_v6(true).unwrap();
        }
        socket.bind(&at.into()).unwrap();
        socket.listen(128).unwrap();
        TcpListener::from(socket)
    };
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhi!\n");
        }
    });
    at
}

/// Answers to what a host never asked for, to many of its ports: it resets them, and looks like a client that had opened them.
/// Flags that are those of a connection's end.
#[test]
fn nobody_is_framed() {
    needs_root!();
    let scene = Scene::new("framed");
    let framed = nobody(false, 9);
    let mut tools = vec![
        scene.attack("hping3", &format!("-q -c 200 -i u1000 -S -A -s 80 -p ++9000 -a {framed} {}", VICTIM.v4)),
        scene.attack("hping3", &format!("-q -c 200 -i u1000 -S -A -p 80 -s 20000 -a {framed} {}", VICTIM.v4)),
        scene.attack("hping3", &format!("-q -c 200 -i u1000 -F -A -s 443 -p ++9000 {}", VICTIM.v4)),
    ];
    for tool in &mut tools {
        tool.0.wait().unwrap();
    }
    let _scan = BOTH.map(|v6| {
        let family = if v6 { "-6" } else { "-4" };
        run(scene.attacker.command("nmap").args([family, "-n", "-Pn", "-sT", "-p", "1-100", VICTIM.at(v6)]))
    });
    scene.expect(&BOTH.map(|v6| Expected::of("port_scan", ATTACKER.at(v6), Some(VICTIM.at(v6)), "refused")));
}
