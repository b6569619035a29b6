//! Real servers and their clients: their protocols are recognised, with both attach modes.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use netmon::bpf::App;
use netmon::config::Config;
use netmon::flow::Flow;

use super::agent::{Watch, watching};
use super::net::quiet_pair;
use crate::needs_root;
use crate::support::netns::Netns;

const SERVER: &str = "10.9.0.2";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/servers");

/// The names in scripts/servers: transport, port, protocol, and the minimum number of connections.
const SERVERS: [(&str, u8, u16, App, usize); 12] = [
    ("http", 6, 80, App::Http, 2),
    ("http2", 6, 8080, App::Http2, 1),
    ("grpc", 6, 50051, App::Grpc, 1),
    ("tls", 6, 443, App::Tls, 2),
    ("dns", 17, 53, App::Dns, 2),
    ("dns", 6, 53, App::Dns, 1),
    ("mysql", 6, 3306, App::Mysql, 1),
    ("postgres", 6, 5432, App::Postgres, 1),
    ("redis", 6, 6379, App::Redis, 1),
    ("memcached", 6, 11211, App::Memcached, 2),
    ("mqtt", 6, 1883, App::Mqtt, 2),
    ("ssh", 6, 22, App::Ssh, 1),
];

fn names() -> Vec<&'static str> {
    let mut names = SERVERS.map(|s| s.0).to_vec();
    names.dedup();
    names
}

/// Lets a client in `ns` send a few requests to the server with this name.
pub fn talk(ns: &Netns, name: &str, address: &str) {
    ns.sh(&format!("{SCRIPT} talk {name} {address}"));
}

/// Servers in a namespace, which end with it.
pub struct Servers {
    children: Vec<Child>,
    directory: PathBuf,
}

impl Servers {
    /// Starts those with these names at an address of `ns`, and waits until they listen.
    pub fn start(ns: &Netns, address: &str, names: &[&str]) -> Servers {
        let directory = std::env::temp_dir().join(&ns.name);
        let mut servers = Servers { children: Vec::new(), directory };
        for name in names {
            let own = servers.directory.join(name);
            std::fs::create_dir_all(&own).unwrap();
            let mut command = ns.command(SCRIPT);
            command
                .args(["serve", name, address])
                .arg(own)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            servers.children.push(command.spawn().unwrap());
        }
        for name in names {
            ns.sh(&format!("{SCRIPT} await {name} {address}"));
        }
        servers
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Processes that a killed server leaves behind end with its namespace.
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn server_port(flow: &Flow) -> u16 {
    flow.endpoint(1 - usize::from(flow.client)).port
}

fn recognised(a: &Netns, b: &Netns, config: Config) {
    let mut watch = Watch::start(b, "vb", config);
    for name in names() {
        talk(a, name, SERVER);
    }
    let flows = watch.settled();
    for (name, protocol, port, app, least) in SERVERS {
        let there = |f: &&Flow| f.protocol == protocol && server_port(f) == port;
        let of_server: Vec<&Flow> = flows.iter().filter(there).collect();
        assert!(of_server.len() >= least, "{name}: {} flows at port {port}", of_server.len());
        for flow in of_server {
            assert_eq!(flow.app, Some(app), "{name}: {flow:?}");
        }
    }
    watch.stop();
}

#[test]
fn real_servers_are_recognised() {
    needs_root!();
    let (a, b) = quiet_pair();
    let _servers = Servers::start(&b, SERVER, &names());
    recognised(&a, &b, watching(&["vb"]));
    recognised(&a, &b, Config { clsact: true, ..watching(&["vb"]) });
}
