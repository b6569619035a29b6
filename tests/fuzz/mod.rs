//! Runs the inputs that the fuzzer started from and those that it found through the code that reads them. `make fuzz`
//! looks for more.

#[path = "../../fuzz/targets.rs"]
pub mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than any input takes on any machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let started = Instant::now();
        if let Err(panic) = std::panic::catch_unwind(|| target(&input)) {
            panic!("{}: {:?}", path.display(), panic.downcast_ref::<String>());
        }
        assert!(started.elapsed() < PATIENCE, "{}: {:?}", path.display(), started.elapsed());
        inputs += 1;
    }
    assert!(inputs >= 10, "{name}: {inputs} inputs in {}", folder.display());
}

#[test]
fn filters() {
    replay("filter", targets::filter);
}

#[test]
fn configurations() {
    replay("configuration", targets::configuration);
}

#[test]
fn requests() {
    replay("request", targets::request);
}

#[test]
fn captures() {
    replay("capture", targets::capture);
}
