//! Runs the agent on threads of this process, inside a namespace.

use std::collections::HashMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use netmon::agent::{self, Handle, Report};
use netmon::bpf::InterfaceBooks;
use netmon::config::{Config, Selection};
use netmon::flow::{Flow, FlowKey};

use super::net::{Counters, index};
use super::{PATIENCE, eventually};
use crate::support::netns::Netns;

/// A configuration that watches `links`.
pub fn watching(links: &[&str]) -> Config {
    let links: Vec<String> = links.iter().map(|&l| l.to_owned()).collect();
    Config {
        interfaces: Selection::new(&links).unwrap(),
        metrics_addr: "127.0.0.1:0".to_owned(),
        workers: 2,
        socket: None,
        ..Config::default()
    }
}

/// True if somebody has the name by which agents see each other.
fn is_claimed() -> bool {
    let name = SocketAddr::from_abstract_name("netmon-agent").unwrap();
    UnixDatagram::unbound().unwrap().connect_addr(&name).is_ok()
}

/// A running agent that stops when this value is dropped.
pub struct Agent {
    pub handle: Handle,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<Report>>>,
}

impl Agent {
    pub fn start(ns: &Netns, config: Config) -> Agent {
        let (stop, stopped) = bounded(1);
        let (ready, is_ready) = bounded(1);
        // A thread inherits the namespace of the thread that starts it.
        let thread = ns.run(move || {
            std::thread::spawn(move || {
                let report = agent::run(&config, &stopped, move |handle| ready.send(handle).unwrap())?;
                // A process that another test is about to start has the agent's sockets too, until it executes its program.
                eventually("the agent's place is free", || (!is_claimed()).then_some(()));
                Ok(report)
            })
        });
        match is_ready.recv() {
            Ok(handle) => Agent { handle, stop: Some(stop), thread: Some(thread) },
            Err(_) => panic!("the agent did not start: {:#}", thread.join().unwrap().unwrap_err()),
        }
    }

    /// Stops it; returns its last report, and how long that took.
    pub fn stop(mut self) -> (Report, Duration) {
        let start = Instant::now();
        drop(self.stop.take());
        let report = self.thread.take().unwrap().join().unwrap().unwrap();
        (report, start.elapsed())
    }

    /// Waits until no packet is on its way from the kernel to the tables; returns all flows.
    pub fn settled(&self) -> Vec<Flow> {
        eventually("all packets of the kernel's books are in the tables", || {
            self.handle.report().conservation().holds().then_some(())
        });
        self.handle.flows()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Flows = HashMap<FlowKey, Flow>;

/// The latest state of every flow. Closed flows leave the table after a while, possibly before all others have
/// appeared.
pub struct FlowLog {
    handle: Handle,
    seen: Arc<Mutex<Flows>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn look(handle: &Handle, seen: &Mutex<Flows>) {
    // The lock is held during the look, so that a later look sees a later state.
    let mut seen = seen.lock().unwrap();
    seen.extend(handle.flows().into_iter().map(|flow| (flow.key(), flow)));
}

impl FlowLog {
    pub fn start(handle: Handle) -> FlowLog {
        let (stop, stopped) = bounded::<()>(0);
        let seen = Arc::<Mutex<Flows>>::default();
        let (looking, noting) = (handle.clone(), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
                look(&looking, &noting);
            }
        });
        FlowLog { handle, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// All flows up to now.
    pub fn flows(&self) -> Vec<Flow> {
        look(&self.handle, &self.seen);
        self.seen.lock().unwrap().values().cloned().collect()
    }
}

impl Drop for FlowLog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An agent that watches one interface, and the counters of that interface, for the same packets.
pub struct Watch<'a> {
    pub agent: Agent,
    log: FlowLog,
    ns: &'a Netns,
    link: &'a str,
    ifindex: u32,
    before: Counters,
}

/// A finished watch.
pub struct Watched {
    pub report: Report,
    pub books: InterfaceBooks,
    pub counters: Counters,
}

impl<'a> Watch<'a> {
    /// Starts while the interface is silent.
    pub fn start(ns: &'a Netns, link: &'a str, config: Config) -> Watch<'a> {
        let ifindex = index(ns, link);
        eventually("a start during which no packet came by", || {
            let before = Counters::read(ns, link);
            let agent = Agent::start(ns, config.clone());
            let log = FlowLog::start(agent.handle.clone());
            (Counters::read(ns, link) == before).then_some(Watch { agent, log, ns, link, ifindex, before })
        })
    }

    /// Waits until no packet is on its way from the kernel to the tables; returns all flows so far, each in its latest
    /// state.
    pub fn settled(&mut self) -> Vec<Flow> {
        self.agent.settled();
        self.log.flows()
    }

    /// What the interface has counted so far.
    pub fn counters(&self) -> Counters {
        Counters::read(self.ns, self.link).since(self.before)
    }

    /// Ends the watch. Call it when nothing more is sent.
    pub fn stop(self) -> Watched {
        let counters = self.counters();
        let (report, took) = self.agent.stop();
        // Detaching waits for the kernel, which another test may keep busy with a thousand interfaces.
        assert!(took < PATIENCE, "the agent took {took:?} to stop");
        let after = Counters::read(self.ns, self.link).since(self.before);
        assert_eq!(counters, after, "{} was meant to be silent by now", self.link);
        assert!(report.conservation().holds(), "{}", report.conservation());
        let books = report.books.get(&self.ifindex).copied().unwrap_or_default();
        Watched { report, books, counters }
    }
}

impl Watched {
    /// Asserts that the BPF programs saw exactly what the interface counted, which holds without offloads, where a
    /// packet is a frame.
    pub fn assert_as_counted(&self) {
        assert_eq!(self.books.ingress, self.counters.rx, "received");
        assert_eq!(self.books.egress, self.counters.tx, "sent");
        assert_eq!(self.counters.dropped, 0, "a drop is seen by the one side only");
    }
}
