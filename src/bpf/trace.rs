//! The trace of single packets: programs that report each packet that passes a filter, loaded only while somebody traces.

use std::cell::RefCell;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle, RingBuffer, RingBufferBuilder};

use super::event::Event;
use super::mapped::Mapped;
use super::skel::NetmonSkel;
use super::skel::types::{nm_number, nm_test, nm_trace_control, nm_trace_op, nm_tracer, nm_view_word};
use super::traced::TracedPacket;

/// Instead of the number of a test: the packet passes, or does not.
const PASSES: u8 = nm_number::NM_PASSES.0 as u8;
const FAILS: u8 = nm_number::NM_FAILS.0 as u8;

/// What a filter can test, as the program parsed the packet. Each is a number of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketWord {
    /// 4, 6, or 0: not IP, or malformed.
    Family,
    /// The IP protocol; values above 255 mean unknown.
    Protocol,
    /// A quarter (0 to 3) of the sender's address, the first being the most significant, in host order. IPv4 has only the first.
    Source(u8),
    /// The same for the receiver's address.
    Destination(u8),
    /// The sender's port; 0 in protocols without ports.
    SourcePort,
    /// The receiver's port, likewise.
    DestinationPort,
    /// The flags byte of TCP; 0 for other protocols.
    TcpFlags,
    /// The type of ICMP or ICMPv6; 0 for other protocols.
    IcmpType,
    /// The code of ICMP or ICMPv6; 0 for other protocols.
    IcmpCode,
    /// The outer VLAN id; 0: none.
    Vlan,
    /// The interface index.
    Interface,
    /// The number of the [`Hook`](super::Hook): 0 is ingress, 1 egress.
    Hook,
    /// The number of the [`Fate`](super::Fate), its index in `Fate::ALL`.
    Fate,
}

impl PacketWord {
    /// Its index among the words of a view.
    pub(super) fn number(self) -> u32 {
        let (word, more) = match self {
            PacketWord::Family => (nm_view_word::NM_VIEW_FAMILY, 0),
            PacketWord::Protocol => (nm_view_word::NM_VIEW_PROTOCOL, 0),
            PacketWord::Source(quarter) => (nm_view_word::NM_VIEW_SOURCE, quarter & 3),
            PacketWord::Destination(quarter) => (nm_view_word::NM_VIEW_DESTINATION, quarter & 3),
            PacketWord::SourcePort => (nm_view_word::NM_VIEW_SPORT, 0),
            PacketWord::DestinationPort => (nm_view_word::NM_VIEW_DPORT, 0),
            PacketWord::TcpFlags => (nm_view_word::NM_VIEW_TCP_FLAGS, 0),
            PacketWord::IcmpType => (nm_view_word::NM_VIEW_ICMP_TYPE, 0),
            PacketWord::IcmpCode => (nm_view_word::NM_VIEW_ICMP_CODE, 0),
            PacketWord::Vlan => (nm_view_word::NM_VIEW_VLAN, 0),
            PacketWord::Interface => (nm_view_word::NM_VIEW_INTERFACE, 0),
            PacketWord::Hook => (nm_view_word::NM_VIEW_HOOK, 0),
            PacketWord::Fate => (nm_view_word::NM_VIEW_FATE, 0),
        };
        word.0 + u32::from(more)
    }
}

/// The condition of a test on its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// The masked bits of the word equal the value.
    Masked {
        /// Which bits to compare.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// The word is at least this.
    AtLeast(u32),
    /// The word is below 256 and its bit is set.
    In([u32; 8]),
}

/// What follows a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The test of this number, which must be a later one.
    Test(u8),
    /// The packet passes.
    Passes,
    /// The packet does not pass.
    Fails,
}

impl Next {
    fn number(self) -> u8 {
        match self {
            Next::Test(number) => number,
            Next::Passes => PASSES,
            Next::Fails => FAILS,
        }
    }
}

/// A test of a filter in the form the programs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketTest {
    /// The word to test.
    pub word: PacketWord,
    /// The condition on it.
    pub asks: Asks,
    /// What follows if the condition holds.
    pub then: Next,
    /// What follows if it does not.
    pub otherwise: Next,
}

/// Largest number of tests in a filter.
pub const MOST_TESTS: usize = nm_number::NM_TESTS.0 as usize;

/// Packets counted by a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Packets that passed the filter.
    pub matched: u64,
    /// Of these, left out because of the rate limit.
    pub held_back: u64,
    /// Of these, lost because the ring was full, one packet interrupted the trace of another, or the record could not be decoded.
    pub lost: u64,
}

/// The maps of a trace, which its programs share.
#[derive(Debug)]
pub struct Trace {
    maps: Vec<(String, OwnedFd)>,
    ring: MapHandle,
    filters: MapHandle,
    tracers: Mapped<nm_tracer>,
    control: Mapped<nm_trace_control>,
    cpus: usize,
    /// Records from the ring that could not be decoded as packets.
    undecodable: Arc<AtomicU64>,
}

impl Trace {
    /// The trace of programs that were just loaded, for `cpus` CPUs.
    pub(super) fn of(skel: &NetmonSkel<'_>, cpus: usize) -> Result<Trace> {
        let maps = &skel.maps;
        let handle = |map: &libbpf_rs::MapMut<'_>| MapHandle::try_from(&**map).context("duplicate a map");
        let all = [&maps.nm_trace_ring, &maps.nm_trace_filters, &maps.nm_tracers, &maps.nm_trace_control];
        let own = |map: &libbpf_rs::MapMut<'_>| -> Result<(String, OwnedFd)> {
            Ok((map.name().to_string_lossy().into_owned(), map.as_fd().try_clone_to_owned()?))
        };
        Ok(Trace {
            maps: all.into_iter().map(own).collect::<Result<_>>().context("duplicate a map")?,
            ring: handle(&maps.nm_trace_ring)?,
            filters: handle(&maps.nm_trace_filters)?,
            tracers: Mapped::new(&maps.nm_tracers, cpus)?,
            control: Mapped::new(&maps.nm_trace_control, 1)?,
            cpus,
            undecodable: Arc::default(),
        })
    }

    pub(super) fn maps(&self) -> &[(String, OwnedFd)] {
        &self.maps
    }

    /// From now on packets are filtered by these tests, beginning with the first; without tests, all packets pass.
    ///
    /// # Errors
    ///
    /// There are more than [`MOST_TESTS`], or the kernel refuses.
    pub fn set_filter(&self, tests: &[PacketTest]) -> Result<()> {
        ensure!(
            tests.len() <= MOST_TESTS,
            "a filter of {} tests: the programs have room for {MOST_TESTS}",
            tests.len()
        );
        let mut bytes = vec![0; MOST_TESTS * size_of::<nm_test>()];
        let everything = PacketTest {
            word: PacketWord::Family,
            asks: Asks::Masked { mask: 0, value: 0 },
            then: Next::Passes,
            otherwise: Next::Passes,
        };
        let tests = if tests.is_empty() { std::slice::from_ref(&everything) } else { tests };
        for (test, place) in tests.iter().zip(bytes.chunks_exact_mut(size_of::<nm_test>())) {
            let (op, set) = match test.asks {
                Asks::Masked { mask, value } => (nm_trace_op::NM_MASKED, [mask, value, 0, 0, 0, 0, 0, 0]),
                Asks::AtLeast(least) => (nm_trace_op::NM_AT_LEAST, [least, 0, 0, 0, 0, 0, 0, 0]),
                Asks::In(set) => (nm_trace_op::NM_IN, set),
            };
            place[..4].copy_from_slice(&[
                test.word.number() as u8,
                op.0 as u8,
                test.then.number(),
                test.otherwise.number(),
            ]);
            for (word, place) in set.iter().zip(place[4..].chunks_exact_mut(4)) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
        }
        // Writes to the filter that is not in use, then switches over to it.
        let next = 1 - (self.control.read(0).map_or(0, |control| control.filter) & 1);
        self.filters.update(&next.to_ne_bytes(), &bytes, MapFlags::ANY).context("hand the filter to the programs")?;
        self.control.store(0, offset_of!(nm_trace_control, filter), next);
        Ok(())
    }

    /// Packets sent so far by the programs of all CPUs.
    pub fn sent(&self) -> u64 {
        self.control.read(0).map_or(0, |control| control.told)
    }

    /// Allows this many packets in all to be sent, counted like [`Self::sent`].
    pub fn allow(&self, packets: u64) {
        // The programs only compare: that the halves are seen one after the other matters once in 2^32 packets.
        let at = offset_of!(nm_trace_control, allowed);
        self.control.store(0, at, packets as u32);
        self.control.store(0, at + 4, (packets >> 32) as u32);
    }

    /// Packets counted so far.
    pub fn counts(&self) -> TraceCounts {
        let mut sum = TraceCounts { lost: self.undecodable.load(Ordering::Relaxed), ..TraceCounts::default() };
        for tracer in (0..self.cpus).filter_map(|cpu| self.tracers.read(cpu)) {
            sum.matched += tracer.matched;
            sum.held_back += tracer.held_back;
            sum.lost += tracer.lost;
        }
        sum
    }

    /// The reading end, for the calling thread.
    ///
    /// # Errors
    ///
    /// The ring cannot be mapped.
    pub fn reader(&self) -> Result<TraceReader> {
        let packets = Rc::new(RefCell::new(Vec::new()));
        let (fill, undecodable) = (Rc::clone(&packets), Arc::clone(&self.undecodable));
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&self.ring, move |bytes| {
                let packet = match Event::decode(bytes) {
                    Some(Event::Traced(traced)) => TracedPacket::decode(traced),
                    // Flows have rings of their own.
                    Some(Event::Flow4 { .. } | Event::Flow6 { .. }) | None => None,
                };
                match packet {
                    Some(packet) => fill.borrow_mut().push(packet),
                    None => {
                        undecodable.fetch_add(1, Ordering::Relaxed);
                    }
                }
                0
            })
            .context("map the ring of the trace")?;
        Ok(TraceReader { buffer: builder.build().context("map the ring of the trace")?, packets })
    }
}

/// The reading end of a trace.
pub struct TraceReader {
    buffer: RingBuffer<'static>,
    packets: Rc<RefCell<Vec<TracedPacket>>>,
}

impl TraceReader {
    /// The packets that have arrived since the last call; does not wait.
    pub fn read(&mut self) -> Vec<TracedPacket> {
        // Errors could only come from the callback, which has none.
        let _ = self.buffer.consume();
        self.packets.take()
    }
}

// The layout that bpf/trace.h promises.
const _: () = assert!(size_of::<nm_test>() == 36);
