//! Detection with real tools: each attack is reported by its kind, source, target and evidence, and nobody else is suspected.

mod benign;
mod bounds;
mod floods;
mod logins;
mod scans;
mod settings;

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::control::{Killed, Operated};
use super::net::{End, connect, host};
use crate::support::netns::Netns;

/// Both addresses of a host.
#[derive(Clone, Copy)]
struct Host {
    v4: &'static str,
    v6: &'static str,
}

const ATTACKER: Host = Host { v4: "10.8.0.1", v6: "fd08::1" };
const VICTIM: Host = Host { v4: "10.7.0.1", v6: "fd07::1" };
const BOTH: [bool; 2] = [false, true];
/// The longest wait for an event: detectors that wait whether a source comes back do so for 65 seconds.
const PATIENCE: Duration = Duration::from_secs(150);

impl Host {
    fn at(self, v6: bool) -> &'static str {
        if v6 { self.v6 } else { self.v4 }
    }
}

/// A host in the victim's network that exists, but where no port is open: from 2 to 99.
fn neighbour(v6: bool, number: u32) -> String {
    if v6 { format!("fd71::{number:x}") } else { format!("10.71.0.{number}") }
}

/// A host that does not exist, and nobody says so.
fn nobody(v6: bool, number: u32) -> String {
    if v6 { format!("fd66::{number:x}") } else { format!("10.66.0.{number}") }
}

/// An attacker, and a router with the agent between it and its victim.
struct Scene {
    attacker: Netns,
    router: Netns,
    victim: Netns,
    agent: Operated,
}

impl Scene {
    fn new(name: &str) -> Scene {
        Scene::with(name, &[])
    }

    /// With these settings of the agent.
    fn with(name: &str, settings: &[&str]) -> Scene {
        let [attacker, router, victim] = ["attacker", "router", "victim"].map(host);
        connect(8, &End { ns: &attacker, link: "va", host: 1 }, &End { ns: &router, link: "vb", host: 2 });
        connect(7, &End { ns: &router, link: "vr", host: 2 }, &End { ns: &victim, link: "vv", host: 1 });
        for (ns, net) in [(&attacker, 8), (&victim, 7)] {
            ns.sh(&format!("ip route add default via 10.{net}.0.2 && ip -6 route add default via fd0{net}::2"));
        }
        router.sh("echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
                   ip route add 10.71.0.0/24 via 10.7.0.1 && ip -6 route add fd71::/64 via fd07::1
                   ip route add blackhole 10.66.0.0/24 && ip -6 route add blackhole fd66::/64");
        // The whole network is the victim's.
        victim.sh("ip route add local 10.71.0.0/24 dev lo && ip -6 route add local fd71::/64 dev lo");
        let mut arguments = vec!["--interface", "vr", "--set", "features.security_monitoring.enabled=true"];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let agent = Operated::start(&router, &format!("detection-{name}"), &arguments);
        Scene { attacker, router, victim, agent }
    }

    /// Starts a tool at the attacker's, which is killed with the value.
    fn attack(&self, program: &str, arguments: &str) -> Killed {
        run(self.attacker.command(program).args(arguments.split_whitespace()))
    }

    /// Everything that was reported so far.
    fn events(&self) -> Vec<Value> {
        let text = self.agent.says(&["events", "-o", "json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for each of these, and asserts that there is nothing else.
    fn expect(&self, expected: &[Expected]) -> Vec<Value> {
        self.expect_also(expected, &[])
    }

    /// The same; what is in `perhaps` may be there.
    fn expect_also(&self, expected: &[Expected], perhaps: &[Expected]) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let events = self.events();
            for event in &events {
                let known = expected.iter().chain(perhaps).any(|one| one.is(event));
                assert!(known, "not expected: {event:#}");
            }
            let missing: Vec<_> = expected.iter().filter(|one| !events.iter().any(|event| one.is(event))).collect();
            if missing.is_empty() {
                events.iter().for_each(assert_consistent);
                eprintln!("after {:?}:", start.elapsed());
                events.iter().for_each(|event| eprintln!("  {}: {}", event["time"], event["message"]));
                return events;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {missing:#?}, got {events:#?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What an event must say; `None`: nothing.
#[derive(Clone, Debug)]
struct Expected {
    kind: &'static str,
    source: Option<String>,
    target: Option<String>,
    port: Option<u16>,
    /// What each flow of its evidence came to; empty if anything is fine.
    outcome: &'static str,
}

impl Expected {
    fn of(kind: &'static str, source: &str, target: Option<&str>, outcome: &'static str) -> Expected {
        Expected { kind, source: Some(source.to_owned()), target: target.map(str::to_owned), port: None, outcome }
    }

    fn is(&self, event: &Value) -> bool {
        event["kind"] == self.kind
            && event["source_ip"].as_str() == self.source.as_deref()
            && event["target_ip"].as_str() == self.target.as_deref()
            && event["target_port"].as_u64() == self.port.map(u64::from)
            && flows(event).iter().all(|flow| self.outcome.is_empty() || flow["outcome"] == self.outcome)
    }
}

fn flows(event: &Value) -> &[Value] {
    event["flows"].as_array().unwrap()
}

/// Asserts that the parts of an event fit together, and that its evidence shows what it says.
fn assert_consistent(event: &Value) {
    let [count, threshold] = ["count", "threshold"].map(|name| event[name].as_u64().unwrap());
    assert!(count >= threshold && threshold > 0, "{event:#}");
    let evidence = flows(event);
    assert!((threshold.min(8) as usize..=8).contains(&evidence.len()), "{event:#}");
    let [first, last] = ["first", "last"].map(|name| event[name].as_str().unwrap());
    assert!(first <= last && last <= event["time"].as_str().unwrap(), "{event:#}");
    let text = event["message"].as_str().unwrap();
    for name in ["source_ip", "target_ip"] {
        assert!(event[name].as_str().is_none_or(|ip| text.contains(ip)), "{event:#}");
    }
    for flow in evidence {
        let start = flow["start"].as_str().unwrap();
        assert!(first <= start && start <= last, "{event:#}");
        for (whole, part) in [("source_ip", "client_ip"), ("target_ip", "server_ip"), ("target_port", "server_port")] {
            assert!(event[whole].is_null() || event[whole] == flow[part], "{whole}: {event:#}");
        }
        for part in ["client_ip", "server_ip"] {
            flow[part].as_str().unwrap().parse::<IpAddr>().unwrap();
        }
    }
}

/// Starts a tool, which says nothing and is killed with the value.
fn run(command: &mut Command) -> Killed {
    Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}
