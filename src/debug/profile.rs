//! Where CPU time goes, in pprof's format.
//!
//! A timer of the process sends SIGPROF to whichever thread runs, and the handler walks that thread's stack. framehop does that with
//! copies of the unwinding tables, and checks that each word of the stack can be read. The unwinder of libgcc, the crate's default,
//! takes locks that the interrupted thread may hold, and has crashed in other programs.
//!
//! The signal may interrupt a wait of any thread (EINTR). All threads of the agent then go on waiting. Loading a BPF program would
//! fail, so the thread that does it blocks the signal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, raise};
use pprof::ProfilerGuardBuilder;
use pprof::protos::Message;

use super::{known, text};
use crate::http::{Page, Reply, Waiting};

/// Samples a second of CPU time. Not 100: the agent's own timers are multiples of 10 ms.
const FREQUENCY: i32 = 99;
/// The default, as for profiles of Go.
const SECONDS: u64 = 30;
const SECONDS_MOST: u64 = 300;
/// Time between two checks whether somebody still waits.
const NAP: Duration = Duration::from_millis(50);

/// At most one profile at a time.
#[derive(Default)]
pub(super) struct Profiling(Arc<AtomicBool>);

/// A profile is being taken until this is dropped.
struct ProfileGuard(Arc<AtomicBool>);

impl Drop for ProfileGuard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Profiling {
    /// `/debug/pprof/profile`.
    pub(super) fn page(&self, query: &str) -> Result<Page, String> {
        let given = known(query, &["seconds"])?;
        let seconds = match given.get("seconds") {
            None => SECONDS,
            Some(text) => text
                .parse()
                .ok()
                .filter(|seconds| (1..=SECONDS_MOST).contains(seconds))
                .ok_or_else(|| format!("seconds={text}; valid: a number from 1 to {SECONDS_MOST}"))?,
        };
        if self.0.swap(true, Ordering::Acquire) {
            return Ok(text(409, "a profile is being taken: come again when it is done".to_owned()).into());
        }
        let taken = ProfileGuard(Arc::clone(&self.0));
        Ok(Page::Later(Box::new(move |waiting| {
            let _taken = taken;
            match take(Duration::from_secs(seconds), waiting) {
                Ok(body) => Reply { status: 200, content_type: "application/octet-stream", body: body.into() },
                Err(error) => text(503, format!("{error:#}")),
            }
        })))
    }
}

fn take(time: Duration, waiting: &Waiting) -> Result<Vec<u8>> {
    prepare()?;
    let taking = profiler(FREQUENCY)?;
    log::info!("taking a CPU profile of {} s", time.as_secs());
    let end = Instant::now() + time;
    while let left @ 1.. = end.saturating_duration_since(Instant::now()).as_millis() {
        anyhow::ensure!(!waiting.is_over(), "nobody waits for the profile any more");
        std::thread::sleep(NAP.min(Duration::from_millis(left as u64)));
    }
    let report = taking.report().build().context("read the samples")?;
    let profile = report.pprof().context("make a profile of the samples")?;
    Ok(profile.encode_to_vec())
}

fn profiler(frequency: i32) -> Result<pprof::ProfilerGuard<'static>> {
    ProfilerGuardBuilder::default().frequency(frequency).build().with_context(|| {
        let folder = std::env::temp_dir();
        format!(
            "prepare the profiler: it needs a folder to write to, which {} may not be: set TMPDIR",
            folder.display()
        )
    })
}

/// The handler reads the unwinding tables when it first runs. Have it run here, where no lock is held, before the timer starts.
fn prepare() -> Result<()> {
    static FIRST: Once = Once::new();
    let mut done = Ok(());
    FIRST.call_once(|| {
        done = profiler(1).and_then(|_taking| raise(Signal::SIGPROF).context("send SIGPROF to this thread"));
    });
    done
}
