//! Code that the tests share: privileges, namespaces, loaded programs, packets.

// Shared with benches/: each of the two leaves some of it unused.
#[allow(dead_code)]
pub mod apiserver;
#[allow(dead_code)]
pub mod dashboard;
#[allow(dead_code)]
pub mod detect;
#[allow(dead_code)]
pub mod flood;
#[allow(dead_code)]
pub mod kernel;
#[allow(dead_code)]
pub mod late;
#[allow(dead_code)]
pub mod net;
#[allow(dead_code)]
pub mod netns;
#[allow(dead_code)]
pub mod packet;
#[allow(dead_code)]
pub mod probe;
#[allow(dead_code)]
pub mod scrape;
#[allow(dead_code)]
pub mod talk;
#[allow(dead_code)]
pub mod tcp_info;
#[allow(dead_code)]
pub mod vary;
#[allow(dead_code)]
pub mod web;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// True if BPF programs can be loaded and namespaces created here. Otherwise, the test is noted by its name as not run,
/// in the file that `scripts/test` shows at its end.
pub fn privileged(test: &str) -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    match MISSING.get_or_init(missing) {
        None => true,
        Some(reason) => {
            not_run(test, reason);
            false
        }
    }
}

/// Notes that `test` could not run here.
pub fn not_run(test: &str, reason: &str) {
    eprintln!("NOT RUN {test}: {reason}");
    if let Some(path) = std::env::var_os("NETMON_NOT_RUN") {
        let line = format!("{test}: {reason}\n");
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

fn missing() -> Option<String> {
    if let Err(error) = netmon::bpf::check_host() {
        return Some(format!("{error:#}"));
    }
    // Try a program other than netmon's: if netmon's own cannot be loaded, that is a failure.
    if let Err(error) = vary::Vary::try_open() {
        return Some(format!("cannot load BPF programs: {error:#}"));
    }
    // The kernel test VMs bring no iproute2; tests that need namespaces check for themselves.
    None
}

/// The seed of a test with random input. It is printed with the output of a failed test; NETMON_TEST_SEED sets it.
pub fn seed() -> u64 {
    let given = std::env::var("NETMON_TEST_SEED").ok().map(|s| s.parse().expect("NETMON_TEST_SEED is a number"));
    let seed = given.unwrap_or_else(|| SmallRng::from_os_rng().random());
    eprintln!("NETMON_TEST_SEED={seed} repeats this");
    seed
}

/// The length of a long repetition: `full` under `make test-all`, which sets NETMON_TEST_FULL, else `short`.
pub fn repeat<T>(short: T, full: T) -> T {
    static FULL: OnceLock<bool> = OnceLock::new();
    if *FULL.get_or_init(|| std::env::var_os("NETMON_TEST_FULL").is_some_and(|set| !set.is_empty())) {
        full
    } else {
        short
    }
}

/// Longer than anything takes here, even on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Repeats `seen` until it returns something; panics with `awaited` if it never does.
pub fn eventually<T>(awaited: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = seen() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {awaited}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Copies a program that is to be run at once. By another process: a program cannot be run while the descriptor of its copy is open,
/// and children that other tests start meanwhile inherit it.
pub fn copy_program(from: &str, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success(), "copy {from}");
}

/// Runs a command, which must succeed; returns its output.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}{}", text, String::from_utf8_lossy(&output.stderr));
    text
}

/// Marks a test that needs root.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::support::privileged($crate::function_name!()) {
            return;
        }
    };
}

/// Marks a test that needs root and TCX (Linux 6.6).
#[macro_export]
macro_rules! needs_tcx {
    () => {
        $crate::needs_root!();
        if !$crate::support::kernel::has_tcx_for($crate::function_name!()) {
            return;
        }
    };
}

/// The path of the enclosing function.
#[macro_export]
macro_rules! function_name {
    () => {{
        fn here() {}
        std::any::type_name_of_val(&here).trim_end_matches("::here")
    }};
}
