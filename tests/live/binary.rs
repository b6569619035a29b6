//! Runs the real program inside a namespace.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::{PATIENCE, eventually};
use crate::support::netns::Netns;

pub const NETMON: &str = env!("CARGO_BIN_EXE_netmon");

/// A running `netmon` that is killed when this value is dropped.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    /// The lines of its standard error that have been read.
    pub log: Vec<String>,
}

impl Program {
    /// Starts it in `ns`, with its metrics on a free port of the loopback address, unless the arguments name another.
    pub fn start(ns: &Netns, arguments: &[&str], clsact: bool) -> Program {
        let mut command = ns.command(NETMON);
        if !arguments.contains(&"--metrics-addr") {
            command.args(["--metrics-addr", "127.0.0.1:0"]);
        }
        command.args(arguments);
        if clsact {
            command.env("NETMON_FORCE_CLSACT", "1");
        }
        Program::spawn(command)
    }

    pub fn spawn(mut command: Command) -> Program {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (line, lines) = unbounded();
        // The thread ends with the program.
        let reader =
            std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|l| line.send(l).unwrap()));
        Program { child, lines, reader: Some(reader), log: Vec::new() }
    }

    /// Waits for a line that contains `text`.
    pub fn wait_for(&mut self, text: &str) -> &str {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.log.push(line),
                Err(_) => panic!("no line with {text:?} in {:#?}", self.log),
            }
            if self.log.last().unwrap().contains(text) {
                return self.log.last().unwrap();
            }
        }
    }

    /// The process id of the program, which `ip netns exec` has become.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        crate::support::sh(&format!("kill -{name} {}", self.pid()));
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; returns how it ended, how long that took, and everything that it wrote to stderr.
    pub fn end(mut self) -> (ExitStatus, Duration, Vec<String>) {
        let start = Instant::now();
        let status = eventually("the program's end", || self.child.try_wait().unwrap());
        let took = start.elapsed();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.log.extend(self.lines.try_iter());
        (status, took, std::mem::take(&mut self.log))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
