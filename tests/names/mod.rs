//! The watcher with an API server that speaks the real protocol, and fails in every possible way.

mod agent;
pub mod clusters;
mod faults;
mod fixtures;
mod labels;
mod many;
mod start;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netmon::flow::Party;
use netmon::names::{Answer, Cluster, Enabled, End, Index, Names, NamesOptions, Scope, Status, Watcher};
use netmon::threads::Threads;
use serde_json::Value;

use crate::live::{PATIENCE, eventually};
use crate::support::apiserver::ApiServer;

const TCP: u8 = 6;
const UDP: u8 = 17;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn options(server: &ApiServer) -> NamesOptions {
    NamesOptions {
        enabled: Enabled::On,
        kubeconfig: Some(server.kubeconfig()),
        node: "node-a".to_owned(),
        ..NamesOptions::default()
    }
}

/// A watcher and its names.
struct Watched {
    names: Arc<Names>,
    watcher: Option<Watcher>,
}

impl Watched {
    fn start(options: &NamesOptions) -> Watched {
        let (names, watcher) = netmon::names::start(options, &Threads::new().0).unwrap();
        Watched { names, watcher }
    }

    /// Starts a watcher and waits until it has read everything.
    fn synced(options: &NamesOptions) -> Watched {
        let watched = Watched::start(options);
        let whole = if options.scope == Scope::Node { Cluster::Node } else { Cluster::Whole };
        eventually("all is read", || (watched.names.load().cluster() == whole).then_some(()));
        watched
    }

    fn status(&self) -> Status {
        self.watcher.as_ref().unwrap().progress().read()
    }

    fn client(&self, of: &str) -> String {
        described(&self.names.load().client(end(of), TCP, now()))
    }

    fn server(&self, of: &str) -> String {
        described(&self.names.load().server(end(of), None, TCP, now()))
    }

    fn errors(&self) -> u64 {
        self.status().kinds.iter().map(|kind| kind.errors).sum()
    }

    /// Waits until this end has this name.
    fn becomes(&self, of: &str, name: &str) {
        let mut last = String::new();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            last = self.client(of);
            if last == name {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{of} is {last:?} for ever, and not {name:?}");
    }
}

fn end(text: &str) -> End {
    let address: SocketAddr = text.parse().unwrap();
    End { ip: address.ip(), port: address.port() }
}

/// `namespace/pod kind/workload @node(zone) svc=service ~name`.
fn described(answer: &Answer) -> String {
    let kind = match answer {
        Answer::Known(_) => "",
        Answer::NotYet(_) => "not yet",
        Answer::External(_) => "external",
    };
    let party = answer.party().map(|party| Party::clone(party)).unwrap_or_default();
    let text = |text: Option<Arc<str>>| text.as_deref().unwrap_or("").to_owned();
    let mut words = vec![kind.to_owned()];
    if let Some(namespace) = party.namespace {
        words.push(format!("{namespace}/{}", text(party.pod)));
    }
    if let Some(workload) = party.workload {
        words.push(format!("{}/{workload}", text(party.workload_kind)));
    }
    if let Some(node) = party.node {
        words.push(format!("@{node}({})", text(party.zone)));
    }
    words.extend(party.service.map(|service| format!("svc={service}")));
    words.extend(party.name.map(|name| format!("~{name}")));
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// Addresses and ports of all objects so far, to be looked up in both indexes.
#[derive(Default)]
struct Universe {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Universe {
    fn add(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                let port = |name: &str| u16::try_from(map.get(name)?.as_u64()?).ok();
                self.ports.extend(["port", "containerPort", "hostPort", "nodePort"].into_iter().filter_map(port));
                map.values().for_each(|value| self.add(value));
            }
            Value::Array(items) => items.iter().for_each(|value| self.add(value)),
            Value::String(text) => self.ips.extend(text.parse::<IpAddr>()),
            _ => {}
        }
    }

    fn add_all(&mut self, server: &ApiServer) {
        for resource in ["pods", "services", "nodes", "endpointslices"] {
            server.objects(resource).iter().for_each(|object| self.add(object));
        }
    }

    /// The differences between two indexes for all of these ends.
    fn differences(&self, index: &Index, truth: &Index) -> Vec<String> {
        let mut differences = Vec::new();
        let at = now();
        let mut compare = |of: String, ours: Answer, theirs: Answer| {
            // Deleted objects linger for a while in an index that has known them.
            let gone = matches!((&ours, &theirs), (Answer::NotYet(None), Answer::NotYet(_) | Answer::External(_)));
            if ours != theirs && !gone {
                differences.push(format!("{of}: {:?}, expected {:?}", described(&ours), described(&theirs)));
            }
        };
        for &ip in &self.ips {
            for protocol in [TCP, UDP] {
                for port in self.ports.iter().copied().chain([0, 40_000]) {
                    let end = End { ip, port };
                    let ask = |index: &Index| index.server(end, None, protocol, at);
                    compare(format!("server {ip}:{port}/{protocol}"), ask(index), ask(truth));
                }
            }
            let ask = |index: &Index| index.client(End { ip, port: 40_000 }, TCP, at);
            compare(format!("client {ip}"), ask(index), ask(truth));
        }
        differences
    }

    /// Waits until the index is equal to one that is built from scratch from the server's objects.
    fn check(&mut self, server: &ApiServer, watched: &Watched, after: &str) {
        self.add_all(server);
        let truth = Watched::synced(&options(server));
        let truth = truth.names.load();
        let start = Instant::now();
        loop {
            let differences = self.differences(&watched.names.load(), &truth);
            if differences.is_empty() {
                break;
            }
            let some = &differences[..differences.len().min(10)];
            assert!(start.elapsed() < PATIENCE, "after {after}: {some:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let (ours, theirs) = (watched.names.load().size(), truth.size());
        let but_lingering = |size: netmon::names::Size| {
            (size.addresses[1], size.addresses[2], size.ports[1], size.ports[2], size.networks)
        };
        assert_eq!(but_lingering(ours), but_lingering(theirs), "after {after}");
    }
}
