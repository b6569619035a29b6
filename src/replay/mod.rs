//! `netmon replay`: sends a capture through the BPF programs, at the capture's times, into a flow table, and prints the
//! flows. It wires the same stages as the agent, with a file in place of the interfaces.

mod capture;
mod copies;
mod flows;
mod link;
mod links;
mod player;
mod stop;
mod stream;

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::bpf::{self, Bpf, InterfaceBooks, ObjectStorage, ProgramOptions, TimestampSource};
use crate::config::Config;
use crate::config::Format;
use crate::output::FlowWriter;
use capture::{Capture, Packet};
use copies::Copies;
use flows::{Book, Flows};
use links::Links;
use player::{Counts, Player};
pub use stop::Stop;
use stream::Stream;

/// The options of a replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The capture; "-" is standard input.
    pub file: PathBuf,
    /// The output format.
    pub format: Format,
}

/// Capacity of the ring in records, with room for a whole cache that is emptied at once.
const RING_RECORDS: usize = 1 << 16;

/// Prints the flows of a capture on standard output.
///
/// # Errors
///
/// The capture cannot be read or is broken, or `stop` interrupts the replay; the flows up to there have been printed.
/// Or the BPF programs cannot be loaded, or standard output cannot be written to. A closed pipe is no error.
pub fn run(config: &Config, replay: &Replay, stop: &Stop) -> Result<()> {
    let out = BufWriter::with_capacity(64 << 10, io::stdout());
    match replay_to(config, replay, stop, out) {
        // The reader has seen enough: `netmon replay … | head`.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

/// Reads a capture to its end, without the kernel. Returns the number of packets that [`run`] would give to the BPF
/// programs.
///
/// # Errors
///
/// The capture cannot be read, is broken, or has only packets of unsupported link types.
pub fn read(input: impl io::Read + 'static) -> Result<u64> {
    let mut capture = Capture::new(Stream::new(input)?)?;
    let (mut packet, mut frame) = (Packet::default(), Vec::new());
    let (mut links, mut copies, mut packets) = (Links::default(), Copies::default(), 0);
    while capture.next(&mut packet)? {
        let Some(link) = links.of(&capture, &packet) else { continue };
        let Ok(framed) = link.frame(&packet, &mut frame) else { continue };
        packets += u64::from(copies.way_of(&packet, link, &frame, &framed).is_some());
        links.places.of(&packet, framed.ifindex);
    }
    links.check()?;
    Ok(packets)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn replay_to(config: &Config, replay: &Replay, stop: &Stop, out: impl Write + Send + 'static) -> Result<()> {
    let file = replay.file.display();
    // Open the file first: a mistyped name should not cause an error about privileges.
    let (stream, bar) =
        Stream::open(&replay.file, io::stderr().is_terminal(), stop).with_context(|| format!("read {file}"))?;
    let mut capture = Capture::new(stream).with_context(|| format!("read {file}"))?;
    bpf::check_host()?;
    bpf::set_log_sink();
    player::stay_on_cpu();
    let cpus = bpf::possible_cpus()?;
    let mut storage = MaybeUninit::<ObjectStorage>::uninit();
    let mut bpf = Bpf::load(&mut storage, &options(config, cpus))?;
    bpf.sampler()?.set(config.sampling_rate);
    let flows = Flows::new(crate::pipeline::bounds(config, 1), &config.security, FlowWriter::new(replay.format, out)?);
    let mut player = Player::new(&mut bpf, flows)?;

    let started = Instant::now();
    let played = play(&mut capture, &mut player, stop);
    bar.finish_and_clear();
    let counts = player.counts;
    let (book, written) = player.finish()?;
    written?;
    let reported = report(&counts, &book, &bpf, started.elapsed());
    played.with_context(|| format!("replay {file}"))?;
    reported
}

/// The options of the agent, except for one worker, the capture's clock, and a measurement of every segment.
fn options(config: &Config, cpus: usize) -> ProgramOptions {
    ProgramOptions {
        rings: 1,
        ring_records: RING_RECORDS,
        timestamps: TimestampSource::Capture,
        latency: config.features.latency.map(|_| Duration::ZERO),
        injected: true,
        ..config.program_options(cpus)
    }
}

/// Plays the capture to its end, or to where it is broken.
fn play<W: Write + Send + 'static>(capture: &mut Capture, player: &mut Player<W>, stop: &Stop) -> Result<()> {
    let mut packet = Packet::default();
    let mut links = Links::default();
    loop {
        let more = capture.next(&mut packet);
        if stop.is_asked() {
            bail!("interrupted: the flows up to here are printed");
        }
        if !matches!(more, Ok(true)) {
            links.check()?;
            return more.map(drop);
        }
        if let Some(link) = links.of(capture, &packet) {
            player.flows().set_context(&links.context);
            player.play(&packet, link, &mut links.places).context("run a packet through the BPF programs")?;
        }
        if let Some(failure) = player.flows().failure() {
            return Err(failure.into());
        }
    }
}

/// Logs what happened to the packets, and checks that none was lost.
fn report<W: Write>(counts: &Counts, book: &Book<W>, bpf: &Bpf<'_>, took: Duration) -> Result<()> {
    let mut seen = InterfaceBooks::default();
    bpf.books()?.interfaces().into_values().for_each(|books| seen += books);
    let inner = match seen.decapsulated.packets {
        0 => String::new(),
        packets => format!(" and {packets} in tunnels"),
    };
    log::info!(
        "{} packets{}, {} flows in {:.3} s; not in a flow: {} not IP, {} malformed, {} too short, {} duplicate",
        counts.played + counts.too_short + counts.copies,
        inner,
        book.printed,
        took.as_secs_f64(),
        seen.not_ip.packets,
        seen.malformed.packets,
        counts.too_short,
        book.duplicate.packets + counts.copies,
    );
    if seen.left_out.packets > 0 {
        log::info!("{} packets belong to flows that are not in the sample", seen.left_out.packets);
    }
    if counts.late > 0 {
        log::warn!(
            "{} packets are more than a second earlier than the one before: they are given its time",
            counts.late
        );
    }
    if book.evicted > 0 {
        log::warn!("{} flows were cut short for lack of room: raise NETMON_FLOW_MAX_FLOWS", book.evicted);
    }
    let accounted = book.accounted.packets + book.duplicate.packets;
    let ignored = seen.not_ip.packets + seen.malformed.packets + seen.left_out.packets;
    let missing = seen.seen().packets + seen.decapsulated.packets - ignored - accounted;
    ensure!(missing == 0 && book.undecodable == 0, "{missing} packets were lost between kernel and table: a bug");
    Ok(())
}
