//! `netmon`: the agent.

mod logging;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Parser;
use crossbeam_channel::bounded;
use netmon::agent;
use netmon::config::{Args, Command, Config, Settings};
use netmon::output::Format;
use netmon::replay::{self, Replay};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let mut args = Args::parse();
    let command = args.command.take();
    // A variable that is no text is none of ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let sources = args.into_sources(environment);
    let settings = match Settings::read(&sources) {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    logging::start(&settings.config);
    for hint in settings.hints() {
        log::warn!("{hint}");
    }
    let result = match command {
        None => watch(&settings.config),
        Some(Command::Replay { file, output }) => replay(&settings.config, file, output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("netmon: {error:#}");
    ExitCode::FAILURE
}

fn watch(config: &Config) -> Result<()> {
    let (stop, stopped) = bounded(1);
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("handle signals")?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("nm-signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                // A second signal finds the channel full: the first is being obeyed.
                let _ = stop.try_send(());
                signals.forever().for_each(drop);
            }
        })
        .context("start the signal thread")?;
    let result = agent::run(config, &stopped, |_| log::info!("ready"));
    handle.close();
    let _ = thread.join();
    result.map(drop)
}

fn replay(config: &Config, file: PathBuf, format: Format) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second one ends the program: it may be waiting for input.
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).context("handle signals")?;
        flag::register(signal, Arc::clone(&stop)).context("handle signals")?;
    }
    replay::run(config, &Replay { file, format }, &stop)
}
