//! `netmon`: the agent. Called as `netmon-cli`, it is that program: the image and the archives have one file for both,
//! because nearly all of their code is the same library.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use crossbeam_channel::bounded;
use netmon::agent::{self, Handle};
use netmon::bpf;
use netmon::cli;
use netmon::config::{Args, Command, Config, Settings, Sources};
use netmon::config::{Format, Layout};
use netmon::doctor::{self, DoctorOptions};
use netmon::logging;
use netmon::replay::{self, Replay, Stop};
use netmon::threads::Threads;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let name = std::env::args_os().next().map(PathBuf::from);
    if name.is_some_and(|path| path.file_name() == Some(OsStr::new("netmon-cli"))) {
        return cli::main();
    }
    bpf::raise_capabilities();
    let mut args: Args = match cli::arguments("netmon") {
        Ok(args) => args,
        Err(code) => return code,
    };
    args.check().unwrap_or_else(|error| error.exit());
    let command = args.command.take();
    let sources = args.into_sources(std::env::vars_os());
    let settings = match Settings::read(&sources) {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    logging::start(&settings.config);
    for hint in settings.hints() {
        log::warn!("{hint}");
    }
    let result = match command {
        None => watch(settings, sources),
        Some(Command::CheckSystem { output }) => return check_system(settings.config, output),
        Some(Command::Replay { file, output }) => replay(&settings.config, file, output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    cli::eprint_line(format_args!("netmon: {error:#}"));
    ExitCode::FAILURE
}

fn check_system(config: Config, layout: Layout) -> ExitCode {
    let report = doctor::run(&DoctorOptions { config });
    match doctor::print(&report, layout, std::io::stdout()) {
        // A closed pipe is no error: the reader has seen enough, and the result stays the same.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            fail(&anyhow::Error::new(error).context("print the report"))
        }
        _ if report.failed() => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn watch(settings: Settings, sources: Sources) -> Result<()> {
    let (stop, stopped) = bounded(1);
    let (threads, deaths) = Threads::new();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("handle signals")?;
    let signals_end = signals.handle();
    let running: Arc<OnceLock<Handle>> = Arc::default();
    let handle = Arc::clone(&running);
    let thread = threads.start("nm-signals", move |_| {
        for signal in signals.forever() {
            match handle.get() {
                Some(handle) if signal == SIGHUP => reload(handle),
                None if signal == SIGHUP => log::warn!("SIGHUP ignored during start: the configuration was just read"),
                // A second signal finds the channel full: the agent is already stopping.
                _ => drop(stop.try_send(())),
            }
        }
        Ok(())
    })?;
    let result = agent::run_with(settings, sources, &threads, &deaths, &stopped, |handle| {
        let _ = running.set(handle);
        log::info!("ready");
    });
    signals_end.close();
    let ended = thread.stop();
    result.and(ended)
}

fn reload(handle: &Handle) {
    if let Err(error) = handle.reload() {
        log::error!("{error:#}");
    }
}

fn replay(config: &Config, file: PathBuf, format: Format) -> Result<()> {
    replay::run(config, &Replay { file, format }, &Stop::at(&[SIGINT, SIGTERM])?)
}
