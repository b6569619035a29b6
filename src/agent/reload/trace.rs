//! Traces packets for a client: for that time other programs replace the agent's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Reload;
use crate::agent::board::Board;
use crate::bpf::{Clock, Trace, TraceCounts, TraceReader, TracedPacket};
use crate::control::{PacketTrace, TraceNext};
use crate::filter::PacketFilter;
use crate::lock;
use crate::output::PacketLine;

/// Packets reported per second, and at once after a pause.
const RATE: u64 = 1000;
/// Between two looks for packets.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks for interfaces that the filter may name.
const NAMES: Duration = Duration::from_secs(1);

/// The trace that runs.
pub(super) struct ActiveTrace {
    pub(super) trace: Arc<Trace>,
    stop: Arc<AtomicBool>,
}

/// The client's end of it. Dropping it ends the trace.
pub(in crate::agent) struct Tracing {
    reload: Arc<Reload>,
    board: Arc<Board>,
    trace: Arc<Trace>,
    reader: TraceReader,
    filter: PacketFilter,
    names: BTreeMap<u32, String>,
    names_at: Instant,
    stop: Arc<AtomicBool>,
    until: Instant,
    allowed: f64,
    allowed_at: Instant,
    clock_offset_ns: i64,
    ended: bool,
}

impl Reload {
    /// Ends the trace that runs, soon.
    pub(in crate::agent) fn end_trace(&self) -> Result<()> {
        let active = lock::ignoring_poison(&self.trace);
        let active = active.as_ref().context("no packet trace runs")?;
        active.stop.store(true, Relaxed);
        Ok(())
    }
}

impl Tracing {
    /// Traces packets that pass the filter for `time`.
    pub(in crate::agent) fn start(
        reload: &Arc<Reload>,
        board: &Arc<Board>,
        filter: PacketFilter,
        time: Duration,
    ) -> Result<Tracing> {
        // So that nothing else changes the programs meanwhile.
        let held = reload.hold();
        if lock::ignoring_poison(&reload.trace).is_some() {
            bail!("a packet trace runs already: netmon-cli debug packet-trace off ends it");
        }
        let names = board.names();
        let tests = filter.compile(&names).map_err(anyhow::Error::msg)?;
        let loaded = reload.loader.load_tracing(&reload.options(), None);
        let (programs, trace) = loaded.context("load the programs that trace")?;
        trace.set_filter(&tests)?;
        let reader = trace.reader()?;
        let stop = Arc::new(AtomicBool::new(false));
        *lock::ignoring_poison(&reload.trace) =
            Some(ActiveTrace { trace: Arc::clone(&trace), stop: Arc::clone(&stop) });
        log::info!("tracing packets for {}", humantime::format_duration(time));
        let now = Instant::now();
        trace.allow(RATE);
        let tracing = Tracing {
            reload: Arc::clone(reload),
            board: Arc::clone(board),
            trace,
            reader,
            filter,
            names,
            names_at: now,
            stop,
            until: now + time,
            allowed: RATE as f64,
            allowed_at: now,
            clock_offset_ns: Clock::offset_to_1970(),
            ended: false,
        };
        let placed = reload.put_in_place(Arc::new(programs));
        drop(held);
        // If that fails, dropping the value replaces what was placed.
        placed.map(|()| tracing)
    }

    /// Puts the agent's own programs back.
    fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        let _held = self.reload.hold();
        *lock::ignoring_poison(&self.reload.trace) = None;
        if let Err(error) = self.reload.put_in_place(self.reload.own_programs()) {
            log::error!("end the packet trace: {error:#}");
        }
        let TraceCounts { matched, held_back, lost } = self.trace.counts();
        log::info!("packet trace ended: {matched} packets matched, {held_back} were left out, {lost} lost");
    }

    fn allow(&mut self) {
        let earned = self.allowed_at.elapsed().as_secs_f64() * RATE as f64;
        self.allowed_at = Instant::now();
        self.allowed = (self.allowed + earned).min((self.trace.sent() + RATE) as f64);
        self.trace.allow(self.allowed as u64);
    }

    fn look_for_names(&mut self) {
        if self.names_at.elapsed() < NAMES {
            return;
        }
        self.names_at = Instant::now();
        let names = self.board.names();
        if names == self.names {
            return;
        }
        // Packets of interfaces that are gone may still be on their way.
        self.names.extend(names.clone());
        let tests = self.filter.compile(&names).map_err(anyhow::Error::msg);
        if let Err(error) = tests.and_then(|tests| self.trace.set_filter(&tests)) {
            log::warn!("new interfaces are not traced: {error:#}");
        }
    }

    fn lines(&self, packets: &[TracedPacket]) -> Vec<PacketLine> {
        let line = |packet: &TracedPacket| {
            let name = self.names.get(&packet.ifindex).cloned().or_else(|| self.board.name_of(packet.ifindex));
            let name = name.unwrap_or_else(|| packet.ifindex.to_string());
            PacketLine::new(packet, name, self.clock_offset_ns)
        };
        packets.iter().map(line).collect()
    }
}

impl PacketTrace for Tracing {
    fn next(&mut self, wait: Duration) -> TraceNext {
        let start = Instant::now();
        loop {
            if self.ended {
                return TraceNext::End;
            }
            if self.stop.load(Relaxed) || self.until <= Instant::now() {
                self.end();
            } else {
                self.allow();
                self.look_for_names();
            }
            let packets = self.reader.read();
            if !packets.is_empty() {
                return TraceNext::Packets(self.lines(&packets));
            }
            if start.elapsed() >= wait {
                return TraceNext::Nothing;
            }
            if !self.ended {
                std::thread::sleep(LOOK);
            }
        }
    }

    fn counts(&self) -> TraceCounts {
        self.trace.counts()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        self.end();
    }
}
