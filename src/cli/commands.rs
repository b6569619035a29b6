//! Runs the commands of `netmon-cli`.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::args::{Bundle, CliArgs, Command, Config, Debug, Dump, Flows, Stats, Support, Switch};
use super::client::Client;
use super::show::{self, Style};
use super::target::is_stdout;
use super::whole::Destination;
use super::{bundle, doctor, events, packet_trace, top};
use crate::config::Args as AgentArgs;
use crate::config::Layout;
use crate::doctor::{DoctorOptions, Report};

/// The main function of `netmon-cli`.
pub fn main() -> ExitCode {
    // `doctor` tries what the agent needs to do.
    crate::bpf::raise_capabilities();
    let args: CliArgs = match arguments("netmon-cli") {
        Ok(args) => args,
        Err(code) => return code,
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint_line(format_args!("netmon-cli: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Parses this program's arguments.
///
/// # Errors
///
/// The exit code, after help or an error was printed.
pub fn arguments<P: Parser>(program: &str) -> Result<P, ExitCode> {
    P::try_parse().map_err(|error| {
        let printed = error.print().and_then(|()| io::stdout().flush());
        match printed {
            Err(failure) if !error.use_stderr() && failure.kind() != ErrorKind::BrokenPipe => {
                eprint_line(format_args!("{program}: write: {failure}"));
                ExitCode::FAILURE
            }
            _ => u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
        }
    })
}

/// Prints a line on standard error and ignores failures, on which `eprintln!` would panic.
pub fn eprint_line(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Runs the command.
fn run(args: &CliArgs) -> Result<()> {
    let client = Client::new(&args.socket);
    let json = args.layout == Layout::Json;
    let style = Style::of_stdout();
    match &args.command {
        Command::Doctor => return examine(&doctor::report(&client), args.layout),
        Command::CheckSystem => return examine(&crate::doctor::run(&DoctorOptions::default()), args.layout),
        Command::Top(what) => return unless_closed(top::run(&client, what, json, style.colours)),
        _ => {}
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match &args.command {
        Command::Status => {
            print_answer(&client, "/v1/status", &[], json, &mut out, |value, out| show::status(value, style, out))
        }
        Command::Flows(Flows::Dump(what)) => dump(&client, what, json, style, &mut out),
        Command::Flows(Flows::Watch { filter }) => watch(&client, filter.as_deref(), json, style, &mut out),
        Command::Events(what) => events::run(&client, what, json, style, &mut out),
        Command::Stats(Stats::Flows) => print_answer(&client, "/v1/stats/flows", &[], json, &mut out, show::flow_stats),
        Command::Stats(Stats::Series) => {
            print_answer(&client, "/v1/stats/series", &[], json, &mut out, |value, out| show::series(value, style, out))
        }
        Command::Config(what) => config(&client, what, json, style, &mut out),
        Command::Debug(Debug::Trace { switch }) => {
            let parameters = [("key", "log.level"), ("value", "trace")];
            match switch {
                Switch::On => change(&client, "POST", "/v1/config", &parameters, json, &mut out),
                Switch::Off => change(&client, "DELETE", "/v1/config", &parameters[..1], json, &mut out),
            }
        }
        Command::Debug(Debug::PacketTrace(what)) => packet_trace::run(&client, what, json, style, &mut out),
        Command::SupportBundle(what) | Command::Support(Support::Bundle(what)) => {
            support_bundle(&client, what, json, &mut out)
        }
        Command::Doctor | Command::CheckSystem | Command::Top(_) => Ok(()),
        Command::Completions { shell } => {
            // The generator panics if it cannot write, so it writes to memory.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut CliArgs::command(), "netmon-cli", &mut script);
            out.write_all(&script).context("write")
        }
        Command::Man { folder } => manual(folder),
    };
    unless_closed(done.and_then(|()| out.flush().context("write")))
}

/// A closed pipe is no error: the reader may have seen enough, as in `netmon-cli … | head`.
fn unless_closed(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        done => done,
    }
}

fn support_bundle(client: &Client, what: &Bundle, json: bool, out: &mut impl Write) -> Result<()> {
    let destination = Destination::of(what.to.as_deref(), "netmon-support.tar.gz", what.force)?;
    let made = bundle::make(client)?;
    let name = destination.put(&made.content)?;
    let summary = match (json, made.missing.as_slice()) {
        (true, missing) => json!({ "file": name, "missing": missing }).to_string(),
        (false, []) => name,
        (false, missing) => format!("{name}, without {}: manifest.json says why", missing.join(", ")),
    };
    if what.to.as_deref().is_some_and(is_stdout) {
        eprint_line(format_args!("{summary}"));
    } else {
        writeln!(out, "{summary}")?;
        out.flush()?;
    }
    match made.lost {
        None => Ok(()),
        Some(why) => anyhow::bail!("the bundle lacks the agent's answers: {why}"),
    }
}

fn examine(report: &Report, layout: Layout) -> Result<()> {
    unless_closed(crate::doctor::print(report, layout, io::stdout()).context("print the report"))?;
    anyhow::ensure!(!report.failed(), "a check failed");
    Ok(())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.into_iter().any(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn print_answer(
    client: &Client,
    path: &str,
    parameters: &[(&str, &str)],
    json: bool,
    out: &mut impl Write,
    show: impl FnOnce(&Value, &mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let value = client.value("GET", path, parameters)?;
    if json {
        serde_json::to_writer_pretty(&mut *out, &value).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        show(&value, out)?;
    }
    Ok(())
}

/// Sends a change. It prints nothing on success, except with JSON output.
fn change(
    client: &Client,
    method: &str,
    path: &str,
    parameters: &[(&str, &str)],
    json: bool,
    out: &mut impl Write,
) -> Result<()> {
    let value = client.value(method, path, parameters)?;
    if json {
        writeln!(out, "{value}")?;
    }
    Ok(())
}

fn dump(client: &Client, what: &Dump, json: bool, style: Style, out: &mut impl Write) -> Result<()> {
    let limit = what.limit.map(|limit| limit.to_string());
    let columns = style.columns.map(|columns| columns.to_string());
    let mut parameters = vec![("output", if json { "json" } else { "table" })];
    parameters.extend(what.filter.as_deref().map(|filter| ("filter", filter)));
    parameters.extend(what.sort.as_deref().map(|sort| ("sort", sort)));
    parameters.extend(limit.as_deref().map(|limit| ("limit", limit)));
    if what.reverse {
        parameters.push(("reverse", ""));
    }
    if !json {
        parameters.extend(columns.as_deref().map(|columns| ("columns", columns)));
    }
    let mut body = client.ask("GET", "/v1/flows", &parameters)?;
    if style.colours && !json {
        for line in BufReader::new(body).lines() {
            let line = line?;
            if line.contains(" failed") { writeln!(out, "{}", style.bad(&line))? } else { writeln!(out, "{line}")? }
        }
    } else {
        io::copy(&mut body, out)?;
    }
    Ok(())
}

fn watch(client: &Client, filter: Option<&str>, json: bool, style: Style, out: &mut impl Write) -> Result<()> {
    let parameters: Vec<(&str, &str)> = filter.map(|filter| ("filter", filter)).into_iter().collect();
    let body = client.ask("GET", "/v1/flows/watch", &parameters)?;
    let mut lines = BufReader::new(body).lines();
    while let Some(line) = lines.next().transpose()? {
        // An empty line only shows that the agent is alive.
        if !line.is_empty() {
            if json {
                writeln!(out, "{line}")?;
            } else {
                show::event(&serde_json::from_str(&line).context("the agent's answer is not JSON")?, style, out)?;
            }
        }
        out.flush()?;
    }
    Ok(())
}

fn config(client: &Client, what: &Config, json: bool, style: Style, out: &mut impl Write) -> Result<()> {
    match what {
        Config::Get { key } => {
            let parameters: Vec<(&str, &str)> = key.as_deref().map(|key| ("key", key)).into_iter().collect();
            print_answer(client, "/v1/config", &parameters, json, out, |value, out| show::config(value, style, out))
        }
        Config::Set { assignment: (key, value) } => {
            change(client, "POST", "/v1/config", &[("key", key), ("value", value)], json, out)
        }
        Config::Unset { key } => change(client, "DELETE", "/v1/config", &[("key", key)], json, out),
        Config::Reload => change(client, "POST", "/v1/reload", &[], json, out),
    }
}

fn manual(folder: &Path) -> Result<()> {
    for command in [AgentArgs::command(), CliArgs::command()] {
        clap_mangen::generate_to(command, folder).with_context(|| format!("write into {}", folder.display()))?;
    }
    Ok(())
}

impl Style {
    /// The style for standard output.
    fn of_stdout() -> Style {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = terminal.then(show::terminal_columns).flatten();
        Style { colours: terminal && !plain, columns }
    }
}
