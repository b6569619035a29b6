//! `netmon replay`: a capture through the kernel's programs, with the capture's clock, into a flow table, printed.
//! Wires the same stages as the agent; a file takes the place of the interfaces.

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

use crate::agent;
use crate::bpf::{self, Bpf, InterfaceBooks, ObjectStorage, Options, TimestampSource};
use crate::config::Config;
use crate::output::{FlowWriter, Format};
use capture::{Capture, Packet};
use copies::Copies;
use flows::{Book, Flows};
use links::Links;
use player::{Counts, Player};
pub use stop::Stop;
use stream::Stream;

/// What to replay, and how to print it.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The capture; "-": standard input.
    pub file: PathBuf,
    /// How to print its flows.
    pub format: Format,
}

/// Records that wait in the ring at most, with room for a whole cache that is emptied at once.
const RING_RECORDS: usize = 1 << 16;

/// Prints the flows of a capture on standard output. If the capture is broken, those up to there, and then it fails. So
/// it does once it is to `stop`.
pub fn run(config: &Config, replay: &Replay, stop: &Stop) -> Result<()> {
    let out = BufWriter::with_capacity(64 << 10, io::stdout());
    match replay_to(config, replay, stop, out) {
        // Whoever reads has seen enough: `netmon replay … | head`.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

/// Reads a capture to its end, without the kernel that [`run`] gives its packets to: how many it would have of them.
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
    // The file first: who mistypes its name should not hear of privileges.
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
    let flows = Flows::new(crate::pipeline::bounds(config, 1), FlowWriter::new(replay.format, out)?);
    let mut player = Player::new(&mut bpf, flows)?;

    let started = Instant::now();
    let played = play(&mut capture, &mut player, stop);
    bar.finish_and_clear();
    let counts = player.counts;
    let (book, written) = player.finish()?;
    written?;
    let told = tell(&counts, &book, &bpf, started.elapsed());
    played.with_context(|| format!("replay {file}"))?;
    told
}

/// As the agent loads them, but for one worker, by the capture's clock, and with every segment measured.
fn options(config: &Config, cpus: usize) -> Options {
    Options {
        rings: 1,
        ring_records: RING_RECORDS,
        timestamps: TimestampSource::Capture,
        latency: config.features.latency.map(|_| Duration::ZERO),
        ..agent::options(config, cpus)
    }
}

/// Plays the capture to its end, or to where it is broken.
fn play<W: Write + Send + 'static>(capture: &mut Capture, player: &mut Player<W>, stop: &Stop) -> Result<()> {
    let mut packet = Packet::default();
    let mut links = Links::default();
    loop {
        let more = capture.next(&mut packet);
        if stop.is_asked() {
            bail!("interrupted: the flows up to there are printed");
        }
        if !matches!(more, Ok(true)) {
            links.check()?;
            return more.map(drop);
        }
        if let Some(link) = links.of(capture, &packet) {
            player.flows().name(&links.naming);
            player.play(&packet, link, &mut links.places).context("give a packet to the programs")?;
        }
        if let Some(failure) = player.flows().failure() {
            return Err(failure.into());
        }
    }
}

/// What became of the packets, for the log.
fn tell<W: Write>(counts: &Counts, book: &Book<W>, bpf: &Bpf<'_>, took: Duration) -> Result<()> {
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
        log::info!("{} packets are of flows that are not in the sample", seen.left_out.packets);
    }
    if counts.late > 0 {
        log::warn!(
            "{} packets are more than a second earlier than the one before: they have got its time",
            counts.late
        );
    }
    if book.evicted > 0 {
        log::warn!("{} flows were cut short for lack of room: NETMON_FLOW_MAX_FLOWS makes more", book.evicted);
    }
    let accounted = book.accounted.packets + book.duplicate.packets;
    let ignored = seen.not_ip.packets + seen.malformed.packets + seen.left_out.packets;
    let missing = seen.seen().packets + seen.decapsulated.packets - ignored - accounted;
    ensure!(missing == 0 && book.undecodable == 0, "{missing} packets were lost between kernel and table: a bug");
    Ok(())
}
