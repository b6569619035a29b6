//! Gives packets to the BPF programs at the capture's times: between two packets, everything happens that would have
//! happened in the time between them.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::capture::Packet;
use super::copies::Copies;
use super::flows::{Book, Flows};
use super::link::{Framed, Link, TooShort};
use super::links::InterfaceNumbers;
use crate::bpf::{Bpf, Clock, Frame, Hook, Injector, Record, RingReader, Sweep, Sweeper};
use crate::pipeline::worker;

/// Time between two sweeps, as in the agent.
const SWEEP_EVERY_NS: u64 = 1_000_000_000;
/// A packet may be this much earlier than the one before it, for example if the queues of a NIC are captured one after
/// the other.
const LATE_NS: u64 = SWEEP_EVERY_NS;
/// Packets between two reads of the ring, which holds many more records than they can cause.
const BATCH: u32 = 4096;

/// Feeds packets to the loaded programs.
pub(super) struct Player<W: Write> {
    hooks: [Injector; 2],
    sweeper: Sweeper,
    reader: RingReader,
    clock: Arc<Clock>,
    flows: Flows<W>,
    copies: Copies,
    records: Vec<Record>,
    frame: Vec<u8>,
    /// The current time of the capture.
    now_ns: u64,
    swept_ns: u64,
    since_drain: u32,
    surplus: u32,
    pub(super) counts: Counts,
}

/// Numbers of packets, among them those that are in no flow or got another time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Packets given to the programs.
    pub(super) played: u64,
    /// Packets left out because the same packet was seen at another interface.
    pub(super) copies: u64,
    /// Packets of which the capture has fewer bytes than the kernel accepts.
    pub(super) too_short: u64,
    /// Packets that are much earlier than the one before.
    pub(super) late: u64,
}

impl<W: Write + Send + 'static> Player<W> {
    /// A player for programs with one ring.
    pub(super) fn new(bpf: &mut Bpf<'_>, flows: Flows<W>) -> Result<Player<W>> {
        let clock = bpf.clock();
        let ring = bpf.take_rings().into_iter().next().context("the programs have no ring")?;
        let hook = |hook| Ok::<_, anyhow::Error>(Injector::new(bpf.program(hook, true)?));
        Ok(Player {
            hooks: [hook(Hook::Ingress)?, hook(Hook::Egress)?],
            sweeper: bpf.sweeper()?,
            reader: ring.reader(Arc::clone(&clock))?,
            clock,
            flows,
            copies: Copies::default(),
            records: Vec::new(),
            frame: Vec::new(),
            now_ns: 0,
            swept_ns: 0,
            since_drain: 0,
            surplus: 0,
            counts: Counts::default(),
        })
    }

    /// The flows so far.
    pub(super) fn flows(&mut self) -> &mut Flows<W> {
        &mut self.flows
    }

    /// Gives the packet to the programs, at its time and at its interface, which `places` numbers.
    pub(super) fn play(&mut self, packet: &Packet, link: Link, places: &mut InterfaceNumbers) -> Result<()> {
        let mut frame = std::mem::take(&mut self.frame);
        let result = match link.frame(packet, &mut frame) {
            Ok(framed) => match self.copies.way_of(packet, link, &frame, &framed) {
                Some(outgoing) => {
                    let place = places.of(packet, framed.ifindex);
                    self.inject(packet, &frame, Framed { outgoing: Some(outgoing), ..framed }, place)
                }
                None => {
                    self.counts.copies += 1;
                    Ok(())
                }
            },
            Err(TooShort) => {
                self.counts.too_short += 1;
                Ok(())
            }
        };
        self.frame = frame;
        result
    }

    fn inject(&mut self, packet: &Packet, frame: &[u8], framed: Framed, place: u32) -> Result<()> {
        let surplus = framed.surplus;
        let at_ns = self.advance(packet.at_ns)?;
        if surplus != self.surplus {
            self.flush()?; // packets in the cache have the previous surplus
            self.surplus = surplus;
            self.flows.correct(surplus);
        }
        let wire_bytes = packet.wire_bytes.saturating_add(surplus);
        let frame_of = Frame { at_ns, wire_bytes, place, ..Frame::default() };
        self.hooks[usize::from(framed.outgoing.unwrap_or(false))].inject(frame, frame_of, 1)?;
        self.counts.played += 1;
        self.since_drain += 1;
        if self.since_drain == BATCH {
            self.drain();
        }
        Ok(())
    }

    /// Advances the time to `at_ns`; returns the packet's time.
    fn advance(&mut self, at_ns: u64) -> Result<u64> {
        let mut at_ns = at_ns.max(1); // for the programs, 0 means no time
        if self.now_ns == 0 {
            (self.now_ns, self.swept_ns) = (at_ns, at_ns);
        }
        if at_ns.saturating_add(LATE_NS) < self.now_ns {
            self.counts.late += 1;
            at_ns = self.now_ns;
        }
        let mut sweeps = at_ns.saturating_sub(self.swept_ns) / SWEEP_EVERY_NS;
        while sweeps > 0 {
            // Sweeps must not be late: times in the caches have 32 bits, 4.29 s, and none may get older than that.
            let seconds = if self.sweeper.is_empty() { sweeps } else { 1 };
            sweeps -= seconds;
            self.swept_ns += seconds * SWEEP_EVERY_NS;
            self.set(self.swept_ns);
            self.sweeper.sweep(Sweep::Due)?;
            self.drain();
        }
        self.set(at_ns);
        Ok(at_ns)
    }

    /// Sets the clock, the only one for the programs and for the reader of their records.
    fn set(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        self.clock.advance(self.now_ns);
    }

    fn drain(&mut self) {
        let Player { reader, records, flows, now_ns, .. } = self;
        worker::drain(reader, records, flows, || *now_ns);
        self.since_drain = 0;
    }

    /// Empties the caches and the ring.
    fn flush(&mut self) -> Result<()> {
        loop {
            self.drain();
            if self.sweeper.is_empty() {
                return Ok(());
            }
            self.sweeper.sweep(Sweep::All)?;
        }
    }

    /// Prints the remaining flows, as of the time of the last packet.
    pub(super) fn finish(mut self) -> Result<(Book<W>, std::io::Result<()>)> {
        self.flush()?;
        Ok(self.flows.finish(self.now_ns))
    }
}

/// Keeps the calling thread on its CPU, so that all packets meet the same cache, and in order. If the host forbids
/// that, nothing is lost: the table combines records from several CPUs.
pub(super) fn stay_on_cpu() {
    let pinned = nix::sched::sched_getcpu().and_then(|cpu| {
        let mut cpus = nix::sched::CpuSet::new();
        cpus.set(cpu)?;
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)
    });
    if let Err(errno) = pinned {
        log::debug!("cannot stay on one CPU: {errno}");
    }
}
