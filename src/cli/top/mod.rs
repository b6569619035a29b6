//! `netmon-cli top`: flows, pairs and services live, on the full screen.
//!
//! `model` is what is shown and what keys do to it, `view` draws it, `columns` and `edit` are parts of these; the
//! terminal, the clock and the agent are in this file.

mod columns;
mod edit;
mod model;
mod view;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crossterm::event::{self, Event, KeyEventKind};
use ratatui::DefaultTerminal;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::args::Top as Args;
use super::client::Client;
use crate::control::Top;
use crate::filter::Filter;
use model::{Model, Query, Wish};
use view::Colours;

/// Maximum share of its time that the agent may spend on answers to `top`, even if it has a million flows.
const SHARE: f64 = 0.05;
/// How often the thread that reads keys checks whether it has to end.
const NAP: Duration = Duration::from_millis(100);

/// Maximum number of inputs that wait to be handled.
const INPUTS: usize = 64;

/// Something that the screen reacts to.
enum Input {
    Event(Event),
    Answer(Query, Result<Top<Value>>),
    Signal(i32),
    /// Keys can no longer be read.
    Deaf(io::Error),
}

/// Runs `top` until the user ends it.
pub(super) fn run(client: &Client, args: &Args, json: bool, colours: bool) -> Result<()> {
    if let Err(error) = Filter::parse(&args.filter) {
        anyhow::bail!(error);
    }
    let model = Model::new(args.by, args.sort, args.reverse, args.filter.clone(), args.interval);
    if json {
        return print(client, &model, args.count);
    }
    ensure!(args.count.is_none(), "--count needs -o json");
    ensure!(io::stdout().is_terminal(), "top needs a terminal: without one, use -o json or flows dump");
    // The absence of an agent is reported as by other commands.
    let first = look(client, &model.query(true))?;
    let signal = on_terminal(client.clone(), model, first, Colours(colours))?;
    if let Some(signal) = signal {
        emulate_default_handler(signal).context("end by the signal")?;
    }
    Ok(())
}

/// Prints one object on each line.
fn print(client: &Client, model: &Model, count: Option<u64>) -> Result<()> {
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let asked = Instant::now();
        let top = look(client, &model.query(true))?;
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &top).map_err(io::Error::from)?;
        writeln!(out)?;
        out.flush()?;
        left -= 1;
        if left > 0 {
            std::thread::sleep(pause(model.every, &top).saturating_sub(asked.elapsed()));
        }
    }
    Ok(())
}

fn look(client: &Client, query: &Query) -> Result<Top<Value>> {
    let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
        value().map_or_else(String::new, |value| value.get_name().to_owned())
    };
    let by = name(&|| query.view.to_possible_value());
    let sort = name(&|| query.order.to_possible_value());
    let limit = query.limit.to_string();
    let mut parameters = vec![("by", by.as_str()), ("sort", &sort), ("limit", &limit)];
    if query.reverse {
        parameters.push(("reverse", ""));
    }
    if !query.filter.is_empty() {
        parameters.push(("filter", &query.filter));
    }
    serde_json::from_reader(client.ask("GET", "/v1/top", &parameters)?).context("the agent's answer is not JSON")
}

/// Time from one update to the next.
fn pause(every: Duration, top: &Top<Value>) -> Duration {
    every.max(Duration::from_secs_f64(top.took_ms.max(0.0) / 1e3 / SHARE))
}

/// Runs the screen and restores the terminal. Returns the signal that ended it, if one did.
fn on_terminal(client: Client, model: Model, first: Top<Value>, colours: Colours) -> Result<Option<i32>> {
    // The thread that reads keys waits while earlier ones are being handled.
    let (input, inputs) = bounded(INPUTS);
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]).context("handle signals")?;
    // A panic restores the terminal, too, before its message is printed.
    let mut terminal = ratatui::try_init().context("prepare the terminal")?;
    let mut threads = Threads::start(client, signals, input);
    let shown = match &mut threads {
        Ok(threads) => show(&mut terminal, model, first, colours, &threads.queries, &inputs),
        Err(_) => Ok(None),
    };
    // Threads that still have an input must not wait for it to be received.
    drop(inputs);
    let restored = ratatui::try_restore().context("restore the terminal");
    threads?.stop();
    match shown? {
        // The terminal itself may be gone.
        Some(signal) => Ok(Some(signal)),
        None => restored.map(|()| None),
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    first: Top<Value>,
    colours: Colours,
    queries: &Sender<Query>,
    inputs: &Receiver<Input>,
) -> Result<Option<i32>> {
    let mut due = Instant::now() + pause(model.every, &first);
    let asked = model.query(true);
    model.take(&asked, Ok(first));
    let (mut asking, mut wanted) = (false, false);
    loop {
        terminal.draw(|frame| view::draw(frame, &mut model, colours)).context("draw")?;
        let regular = !model.paused && Instant::now() >= due;
        if (wanted || regular) && !asking {
            due = Instant::now() + model.every;
            asking = queries.try_send(model.query(regular)).is_ok();
            wanted = false;
        }
        let wait = match asking || model.paused {
            true => Duration::from_secs(3600),
            false => due.saturating_duration_since(Instant::now()),
        };
        let arrived = match inputs.recv_timeout(wait) {
            Ok(input) => input,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("a thread of top ended by itself"),
        };
        // Inputs that arrive together are drawn together.
        for input in std::iter::once(arrived).chain(inputs.try_iter()) {
            match input {
                Input::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => match model.press(key) {
                    Wish::Nothing => {}
                    Wish::Ask => wanted = true,
                    Wish::Quit => return Ok(None),
                },
                // The screen is redrawn anyway; but more rows may fit.
                Input::Event(Event::Resize(..)) => wanted = true,
                Input::Event(_) => {}
                Input::Answer(query, answer) => {
                    asking = false;
                    if let Ok(top) = &answer {
                        due = due.max(Instant::now() + pause(Duration::ZERO, top));
                    }
                    model.take(&query, answer.map_err(|error| format!("{error:#}")));
                }
                Input::Signal(signal) => return Ok(Some(signal)),
                Input::Deaf(error) => return Err(error).context("read keys"),
            }
        }
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// The threads that read keys, wait for signals and query the agent: each may block.
struct Threads {
    queries: Sender<Query>,
    stop: Arc<AtomicBool>,
    signals: signal_hook::iterator::Handle,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(client: Client, mut signals: Signals, input: Sender<Input>) -> Result<Threads> {
        let (queries, asked) = bounded::<Query>(1);
        let stop = Arc::new(AtomicBool::new(false));
        let handle = signals.handle();
        let (keys, stopped) = (input.clone(), Arc::clone(&stop));
        let (answers, caught) = (input.clone(), input);
        let work: [(&str, Work); 3] = [
            ("top-keys", Box::new(move || read_keys(&keys, &stopped))),
            (
                "top-signals",
                Box::new(move || signals.forever().for_each(|signal| drop(caught.send(Input::Signal(signal))))),
            ),
            (
                "top-agent",
                Box::new(move || {
                    for query in asked {
                        let answer = look(&client, &query);
                        // If the screen has ended, the queries will end, too.
                        let _ = answers.send(Input::Answer(query, answer));
                    }
                }),
            ),
        ];
        let mut threads = Threads { queries, stop, signals: handle, threads: Vec::new() };
        for (name, work) in work {
            let thread = Builder::new().name(name.to_owned()).spawn(work).context("start a thread")?;
            threads.threads.push(thread);
        }
        Ok(threads)
    }

    fn stop(self) {
        self.stop.store(true, Relaxed);
        self.signals.close();
        drop(self.queries);
        // A thread that waits for an agent that hangs, or for a terminal that is gone, ends with the process, which is
        // about to exit.
        let end = Instant::now() + 2 * NAP;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < end {
                std::thread::sleep(NAP / 20);
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

fn read_keys(input: &Sender<Input>, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let event = match event::poll(NAP) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let (last, event) = match event {
            Ok(event) => (false, Input::Event(event)),
            Err(error) => (true, Input::Deaf(error)),
        };
        if input.send(event).is_err() || last {
            return;
        }
    }
}
