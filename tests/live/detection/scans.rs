//! Scanners of ports and addresses.

use super::{ATTACKER, BOTH, Expected, Scene, VICTIM, flows, nobody};
use crate::needs_root;

/// What makes nmap read an address of this family, and the address.
fn to(v6: bool, address: &str) -> String {
    format!("{} {address}", if v6 { "-6" } else { "" })
}

fn port_scans(outcome: &'static str) -> [Expected; 2] {
    BOTH.map(|v6| Expected::of("port_scan", ATTACKER.at(v6), Some(VICTIM.at(v6)), outcome))
}

/// nmap with these options finds all ports closed, and is found out.
fn scans_ports(name: &str, options: &str) {
    let scene = Scene::new(name);
    let (_watch, told) = scene.agent.follow(&["events", "watch", "-o", "json"]);
    let _tools = BOTH.map(|v6| scene.attack("nmap", &format!("-n -Pn {options} {}", to(v6, VICTIM.at(v6)))));
    let events = scene.expect(&port_scans("refused"));
    for event in &events {
        let mut ports: Vec<u64> = flows(event).iter().map(|flow| flow["server_port"].as_u64().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8, "each port once: {event:#}");
        assert_eq!((&event["threshold"], &event["severity"]), (&15.into(), &"warning".into()), "{event:#}");
        assert!(flows(event).iter().all(|flow| flow["protocol"] == "tcp"), "{event:#}");
    }
    for _ in 0..2 {
        let line = told.recv_timeout(super::PATIENCE).unwrap();
        assert!(events.contains(&serde_json::from_str(&line).unwrap()), "{line}");
    }
}

#[test]
fn a_syn_scan() {
    needs_root!();
    scans_ports("syn", "-sS -p 1-100");
}

#[test]
fn a_connect_scan() {
    needs_root!();
    scans_ports("connect", "-sT -p 1-100");
}

/// A port each 0.4 seconds.
#[test]
fn a_polite_scan() {
    needs_root!();
    scans_ports("polite", "-sS -T2 -p 1-30");
}

/// Filtered ports do not answer at all.
#[test]
fn a_scan_of_silent_ports() {
    needs_root!();
    let scene = Scene::with("silent", &["flow.connect_timeout=2s"]);
    scene.victim.sh("nft \"add table inet f; add chain inet f i { type filter hook input priority 0 ; }
                     add rule inet f i tcp dport 1-100 drop\"");
    let _tools = BOTH.map(|v6| scene.attack("nmap", &format!("-n -Pn -sS -p 1-40 {}", to(v6, VICTIM.at(v6)))));
    scene.expect(&port_scans("timeout"));
}

/// masscan, which sends and receives past the kernel.
#[test]
fn a_scan_past_the_kernel() {
    needs_root!();
    let scene = Scene::new("masscan");
    let _tools = BOTH.map(|v6| {
        // In the middle of the network, because it leaves out neither the first nor the last address.
        let range = format!("--range {} -p 1-60", VICTIM.at(v6));
        scene.attack("masscan", &masscan(v6, &range))
    });
    scene.expect(&port_scans("refused"));
}

/// Arguments of masscan: it does not ask the kernel for routes.
fn masscan(v6: bool, rest: &str) -> String {
    let source = ATTACKER.at(v6);
    format!("--interface va --router-mac 02-00-00-00-08-02 --source-ip {source} --rate 500 --wait 1 {rest}")
}

#[test]
fn a_scan_of_addresses() {
    needs_root!();
    let scene = Scene::new("addresses");
    let _tools = [("10.71.0.10-10.71.0.79", false), ("fd71::10-fd71::4f", true)]
        .map(|(range, v6)| scene.attack("masscan", &masscan(v6, &format!("--range {range} -p 6379"))));
    let at_redis = |v6| Expected { port: Some(6379), ..Expected::of("address_scan", ATTACKER.at(v6), None, "refused") };
    scene.expect(&BOTH.map(at_redis));
}

/// Segments that belong to no connection. Neither a port that is closed nor one that is open needs to answer.
#[test]
fn stealth_scans() {
    needs_root!();
    let scene = Scene::new("stealth");
    let kinds = [("-sF", "fin"), ("-sN", "null"), ("-sX", "xmas"), ("-sS --scanflags SYNFIN", "syn_fin")];
    let mut expected = Vec::new();
    let mut tools = Vec::new();
    for v6 in BOTH {
        for (number, (options, outcome)) in (11..).zip(kinds) {
            // From an address of its own each.
            let source = if v6 { format!("fd08::{number}") } else { format!("10.8.0.{number}") };
            let length = if v6 { "64 nodad" } else { "24" };
            scene.attacker.sh(&format!("ip addr add {source}/{length} dev va"));
            let arguments = format!("-n -Pn {options} -e va -S {source} -p 1-20 {}", to(v6, VICTIM.at(v6)));
            tools.push(scene.attack("nmap", &arguments));
            expected.push(Expected::of("stealth_scan", &source, Some(VICTIM.at(v6)), outcome));
        }
    }
    // The answer to a SYN with FIN is that to a SYN.
    let perhaps: Vec<Expected> = [false, true]
        .map(|v6| {
            let source = if v6 { "fd08::14" } else { "10.8.0.14" };
            Expected::of("port_scan", source, Some(VICTIM.at(v6)), "refused")
        })
        .into();
    scene.expect_also(&expected, &perhaps);
}

/// A kernel answers few datagrams a second with "port unreachable": nmap notices, and slows down.
#[test]
fn a_scan_of_udp_ports() {
    needs_root!();
    let scene = Scene::new("udp");
    scene.victim.sh("echo 0 >/proc/sys/net/ipv6/icmp/ratelimit");
    let _tools = BOTH.map(|v6| scene.attack("nmap", &format!("-n -Pn -sU -p 5000-5040 {}", to(v6, VICTIM.at(v6)))));
    let events =
        scene.expect(&BOTH.map(|v6| Expected::of("udp_scan", ATTACKER.at(v6), Some(VICTIM.at(v6)), "refused")));
    assert!(events.iter().flat_map(flows).all(|flow| flow["protocol"] == "udp"));
}

/// Of hosts that do not exist, behind a router: within a network, neighbours would be asked for instead.
#[test]
fn a_sweep_of_pings() {
    needs_root!();
    let scene = Scene::with("sweep", &["flow.connect_timeout=2s"]);
    let hosts = |v6| (1..=60).map(|number| nobody(v6, number)).collect::<Vec<_>>().join(" ");
    // By default, nmap tries a few ports, too.
    let tools = [("-n -sn", false), ("-n -sn -PE", true)];
    let _tools = tools.map(|(options, v6)| scene.attack("nmap", &format!("{options} {}", to(v6, &hosts(v6)))));
    let mut expected: Vec<Expected> =
        BOTH.map(|v6| Expected::of("ping_sweep", ATTACKER.at(v6), None, "timeout")).into();
    expected.push(Expected { port: Some(443), ..Expected::of("address_scan", ATTACKER.v4, None, "timeout") });
    let events = scene.expect(&expected);
    for event in events.iter().filter(|event| event["kind"] == "ping_sweep") {
        let name = if event["source_ip"] == ATTACKER.v4 { "icmp" } else { "icmpv6" };
        assert!(flows(event).iter().all(|flow| flow["protocol"] == name), "{event:#}");
    }
}

/// Few hosts, and few ports of each: only that hardly any answers shows what it is.
#[test]
#[ignore = "takes two minutes"]
fn a_slow_scan() {
    needs_root!();
    let scene = Scene::new("slow");
    let _tools = BOTH.map(|v6| {
        let hosts: Vec<String> = (2..14).map(|number| super::neighbour(v6, number)).collect();
        scene.attack("nmap", &format!("-n -Pn -sS -T2 -p 22 {}", to(v6, &hosts.join(" "))))
    });
    scene.expect(&BOTH.map(|v6| Expected::of("slow_scan", ATTACKER.at(v6), None, "refused")));
}
