//! The log of the program: on standard error, a decision a line.

use std::io::Write;

use log::LevelFilter;
use netmon::config::{Config, LogFormat};

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
    builder.init();
    log::set_max_level(config.log_level);
}
