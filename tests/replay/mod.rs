//! The program `netmon replay`: its output for captures, compared with tshark and with what was written into them.

// clippy.toml allows these only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bounds;
mod broken;
mod formats;
mod latency;
mod security;
mod time;
mod tshark;
mod tunnels;
pub mod written;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::Value;

pub const NETMON: &str = env!("CARGO_BIN_EXE_netmon");

/// The captures of real servers, by name; tests/captures/README.md.
pub fn captures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut all: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_none_or(|extension| extension != "md"));
    all.sort();
    assert!(all.len() >= 13, "captures are missing");
    all
}

/// A file that is deleted with this value.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Scratch(std::env::temp_dir().join(format!("nmt-{}-{number}-{name}", std::process::id())))
    }

    pub fn holding(name: &str, bytes: &[u8]) -> Scratch {
        let scratch = Scratch::new(name);
        fs::write(&scratch.0, bytes).unwrap();
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs `netmon replay` to its end, `input` on its standard input.
pub fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(NETMON);
    command.arg("replay").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end without reading everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// The output of a run as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The flows that a run printed with `-o json`.
pub fn flows_of(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The flows of a whole capture.
pub fn replay(file: &Path) -> Vec<Value> {
    static SEEN: Mutex<BTreeMap<PathBuf, Arc<OnceLock<Vec<Value>>>>> = Mutex::new(BTreeMap::new());
    if !file.starts_with(env!("CARGO_MANIFEST_DIR")) {
        return replay_now(file);
    }
    // Many tests use the same captures, and loading the programs takes a while.
    let seen = Arc::clone(SEEN.lock().unwrap().entry(file.to_owned()).or_default());
    seen.get_or_init(|| replay_now(file)).clone()
}

fn replay_now(file: &Path) -> Vec<Value> {
    let output = run(&["-o", "json", file.to_str().unwrap()], &[]);
    assert!(output.status.success(), "{}: {}", file.display(), text(&output.stderr));
    flows_of(&output)
}

/// Nanoseconds since 1970 of an RFC 3339 time.
pub fn nanoseconds(time: &Value) -> u64 {
    let at = humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
    at.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}
