//! Network namespaces as hosts, which are deleted when the value is dropped.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use super::sh;

/// A network namespace whose loopback interface is up.
pub struct Netns {
    pub name: String,
}

impl Netns {
    /// Creates a namespace. Its name has the id of the test process.
    pub fn new(role: &str) -> Netns {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("nmt-{}-{}-{role}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Netns { name }
    }

    /// Runs a shell command in it; {ns} stands for its name.
    pub fn sh(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} sh -ec '{}'", self.name, command.replace("{ns}", &self.name)))
    }

    /// A command that will run in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `f` on a thread in the namespace; threads that it starts are in it, too.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    f()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Like `run`, for a function that cannot move to another thread.
    pub fn enter_for<T>(&self, f: impl FnOnce() -> T) -> T {
        let back = Back(File::open("/proc/thread-self/ns/net").unwrap());
        self.enter();
        let value = f();
        drop(back);
        value
    }

    /// Moves the calling thread into the namespace. Its /sys remains the old one: use netlink.
    pub fn enter(&self) {
        let ns = File::open(format!("/run/netns/{}", self.name)).unwrap();
        setns(ns, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// A counter of /sys/class/net/LINK/statistics.
    pub fn counter(&self, link: &str, counter: &str) -> u64 {
        self.sh(&format!("cat /sys/class/net/{link}/statistics/{counter}")).trim().parse().unwrap()
    }
}

/// Returns the thread to its original namespace, even after a panic.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Processes that still run inside would keep the namespace alive.
        let _ = Command::new("sh")
            .args(["-c", &format!("ip netns pids {0} | xargs -r kill -9; ip netns del {0}", self.name)])
            .output();
    }
}

/// Two hosts, `a` with 10.9.0.1 and fd09::1 on its interface `va`, `b` with .2 and ::2 on `vb`.
pub fn pair() -> (Netns, Netns) {
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    sh(&format!("ip -n {} link add va type veth peer name vb netns {}", a.name, b.name));
    for (ns, link, host) in [(&a, "va", 1), (&b, "vb", 2)] {
        // Skip duplicate address detection, which would only delay the test.
        sh(&format!(
            "ip -n {0} addr add 10.9.0.{2}/24 dev {1} && ip -n {0} addr add fd09::{2}/64 dev {1} nodad && ip -n {0} link set {1} up",
            ns.name, link, host
        ));
    }
    (a, b)
}
