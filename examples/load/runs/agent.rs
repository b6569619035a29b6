//! The netmon program as a process in a namespace, and what it takes.

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::netns::Netns;
use crate::support::scrape;

/// In a namespace of its own, the default port is free.
const PORT: u16 = 9090;
/// Longer than a start takes on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The netmon program, running; killed when this value is dropped.
pub struct Agent<'a> {
    child: Child,
    ns: &'a Netns,
}

/// How to start an agent.
pub struct Start<'s> {
    /// The netmon program.
    pub program: &'s Path,
    /// Further arguments for it.
    pub arguments: &'s [String],
    /// The interface that it watches.
    pub link: &'s str,
    /// Its control socket.
    pub socket: &'s Path,
    /// True if Ctrl-C must not reach it, because whoever started it stops it.
    pub is_shielded: bool,
}

impl<'a> Agent<'a> {
    /// Starts an agent in `ns`, with the variables of this process's environment that configure it; returns once it is ready.
    ///
    /// # Errors
    ///
    /// It cannot be started, ends, or does not become ready.
    pub fn start(ns: &'a Netns, how: &Start) -> Result<Agent<'a>> {
        let mut command = ns.command(how.program.to_str().context("the path of the program is no text")?);
        command.args(["--interface", how.link, "--metrics-addr", &format!("127.0.0.1:{PORT}"), "--log-level", "warn"]);
        command.arg("--socket").arg(how.socket).args(how.arguments).stdin(Stdio::null());
        if how.is_shielded {
            command.process_group(0);
        }
        let child = command.spawn().context("start netmon")?;
        let mut agent = Agent { child, ns };
        let start = Instant::now();
        while agent.get("/readyz").is_err() {
            if let Some(status) = agent.child.try_wait()? {
                bail!("netmon ended: {status}");
            }
            ensure!(start.elapsed() < READY_WITHIN, "netmon did not become ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    /// A page of its metrics server.
    ///
    /// # Errors
    ///
    /// It does not answer, or with another status than 200.
    pub fn get(&self, path: &str) -> Result<String> {
        self.ns.run(|| {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).context("connect to the agent")?;
            scrape::page(stream, path).context("read a page of the agent")
        })
    }

    /// Its process. `ip netns exec` execs the program, so the process is the same.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads, in nanoseconds.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn cpu_ns(&self) -> Result<f64> {
        cpu_ns(self.pid())
    }

    /// Sends SIGTERM and waits for the exit.
    ///
    /// # Errors
    ///
    /// It ends with an error.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "netmon ended: {status}");
        Ok(())
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // After `stop` the process has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of all threads of a process so far, in nanoseconds; that of threads which have ended is not included.
///
/// # Errors
///
/// There is no such process.
pub fn cpu_ns(pid: u32) -> Result<f64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("no process {pid}"))?;
    let mut sum = 0.0;
    for task in tasks {
        // A thread may end meanwhile.
        if let Ok(times) = std::fs::read_to_string(task?.path().join("schedstat")) {
            sum += times.split(' ').next().unwrap_or_default().parse::<f64>()?;
        }
    }
    Ok(sum)
}
