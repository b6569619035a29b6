//! The log, on standard error, with one line for each decision. Lines that packets or requests can trigger cannot flood
//! it, and the latest lines are kept for troubleshooting.

mod limiter;

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use log::{LevelFilter, Log, Metadata, Record};

use crate::bpf::LOG_TARGET;
use crate::config::{Config, LogFormat};
use limiter::{Limiter, Verdict};

/// Number of lines that are kept.
const KEPT: usize = 1000;
/// Maximum length of a kept line, in bytes.
const LONGEST: usize = 1000;

static LATEST: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
static HELD_BACK: AtomicU64 = AtomicU64::new(0);

/// A logger that writes lines and keeps the latest.
struct Keeping {
    out: env_logger::Logger,
    limiter: Mutex<Limiter>,
    start: Instant,
}

impl Keeping {
    fn write(&self, record: &Record<'_>) {
        keep(record);
        self.out.log(record);
    }
}

impl Log for Keeping {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.out.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // They come in large numbers, but only when programs are loaded, so their rate is not limited.
        if record.target() == LOG_TARGET {
            return self.write(record);
        }
        if !is_logged(record.target(), log::max_level()) {
            return;
        }
        let place = (record.file_static().unwrap_or_default(), record.line().unwrap_or_default());
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = limiter.judge(place, self.start.elapsed());
        drop(limiter);
        match verdict {
            Verdict::Pass { held_back: 0 } => self.write(record),
            Verdict::Pass { held_back } => {
                let mut line = Record::builder();
                line.metadata(record.metadata().clone());
                let message = format_args!("{} ({held_back} similar messages were held back)", record.args());
                self.write(&line.args(message).build());
            }
            Verdict::HoldBack => drop(HELD_BACK.fetch_add(1, Relaxed)),
        }
    }

    fn flush(&self) {
        self.out.flush();
    }
}

/// Other libraries log each failed request as an error, and TLS packets as information; netmon logs what matters of
/// that itself.
fn is_logged(target: &str, level: LevelFilter) -> bool {
    target.starts_with("netmon") || level == LevelFilter::Trace
}

fn keep(record: &Record<'_>) {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let mut line = format!("{time} {:<5} {}", record.level(), record.args());
    if line.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or_default());
        line.push('…');
    }
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    if latest.len() == KEPT {
        latest.pop_front();
    }
    latest.push_back(line);
}

/// The latest lines, oldest first.
pub fn latest() -> Vec<String> {
    LATEST.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// Number of messages that were held back because they came too often.
pub fn held_back() -> u64 {
    HELD_BACK.load(Relaxed)
}

/// Starts the log. Its level may change later.
pub fn start(config: &Config) {
    let mut builder = env_logger::Builder::new();
    // The level is kept in the crate `log`, where it can be changed.
    builder.filter_level(LevelFilter::Trace).format_target(false);
    if config.log_format == LogFormat::Json {
        builder.format(|out, record| {
            let line = serde_json::json!({
                "time": out.timestamp_millis().to_string(),
                "level": record.level().as_str().to_lowercase(),
                "thread": std::thread::current().name(),
                "message": record.args().to_string(),
            });
            writeln!(out, "{line}")
        });
    }
    // This only fails if a logger is already set.
    let keeping = Keeping { out: builder.build(), limiter: Mutex::default(), start: Instant::now() };
    let _ = log::set_boxed_logger(Box::new(keeping));
    log::set_max_level(config.log_level);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_lines_are_kept_and_no_more() {
        let long = "ä".repeat(LONGEST);
        for number in 0..KEPT + 10 {
            keep(&Record::builder().level(log::Level::Info).args(format_args!("line {number} {long}")).build());
        }
        let latest = latest();
        assert_eq!(latest.len(), KEPT);
        assert!(latest[0].contains("INFO  line 10 ä"), "{}", latest[0]);
        assert!(latest.iter().all(|line| line.len() <= LONGEST + '…'.len_utf8()));
    }

    #[test]
    fn libraries_are_silent_except_at_the_lowest_level() {
        assert!(is_logged("netmon::names::watch", LevelFilter::Info) && is_logged("netmon", LevelFilter::Error));
        assert!(!is_logged("kube_client::client::builder", LevelFilter::Debug));
        assert!(is_logged("kube_client::client::builder", LevelFilter::Trace));
    }
}
