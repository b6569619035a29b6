//! The log of the program: on standard error, a decision a line. The latest lines are kept, for whoever looks for a fault.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

use crate::config::{Config, LogFormat};

/// Lines that are kept, and how long one may be.
const KEPT: usize = 1000;
const LONGEST: usize = 1000;

static LATEST: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Writes lines and keeps them.
struct Keeping(env_logger::Logger);

impl Log for Keeping {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        keep(record);
        self.0.log(record);
    }

    fn flush(&self) {
        self.0.flush();
    }
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

/// The latest lines, the oldest first.
pub fn latest() -> Vec<String> {
    LATEST.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// Starts it. Its level may change later.
pub fn start(config: &Config) {
    let mut builder = env_logger::Builder::new();
    // The crate `log` keeps the level, which is changed there.
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
    // It can only be there already.
    let _ = log::set_boxed_logger(Box::new(Keeping(builder.build())));
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
}
