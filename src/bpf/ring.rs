//! A ring buffer, written by the programs and read by one worker.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use libbpf_rs::{MapHandle, MapType};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::clock::Clock;
use super::event::{self, Event};
use super::mapped_ring::MappedRing;
use super::record::{RING_RECORD_BYTES, Record};

/// A ring buffer map.
#[derive(Debug)]
pub struct Ring {
    map: MapHandle,
    bytes: u32,
}

impl Ring {
    /// Creates ring number `i` with room for about `records` records.
    ///
    /// # Errors
    ///
    /// The size exceeds 1 GiB, or the kernel refuses.
    pub(super) fn create(i: usize, records: usize) -> Result<Ring> {
        let page = procfs::page_size() as usize;
        let bytes = (records * RING_RECORD_BYTES).max(page).next_power_of_two();
        let bytes = u32::try_from(bytes).ok().filter(|b| *b <= 1 << 30);
        let bytes = bytes.with_context(|| format!("a ring of {records} records: the kernel allows 1 GiB"))?;
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
            ..Default::default()
        };
        let map = MapHandle::create(MapType::RingBuf, Some(format!("nm_ring_{i}")), 0, 0, bytes, &options)
            .with_context(|| format!("create ring {i} of {bytes} bytes"))?;
        Ok(Ring { map, bytes })
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.map.as_fd().as_raw_fd()
    }

    /// Size of its data area in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.into()
    }

    /// A second handle to the same ring.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> Result<Ring> {
        Ok(Ring { map: MapHandle::try_from(&self.map).context("duplicate a ring")?, bytes: self.bytes })
    }

    /// The reading end, for the calling thread.
    ///
    /// # Errors
    ///
    /// The ring cannot be mapped.
    pub fn reader(&self, clock: Arc<Clock>) -> Result<RingReader> {
        let memory = MappedRing::new(&self.map, self.bytes as usize).context("map the ring")?;
        // The programs do not wake it for each record. An epoll instance sleeps until they do; the ring alone is readable as soon as
        // it holds a record.
        let wakes = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("create an epoll instance")?;
        wakes.add(&self.map, EpollEvent::new(EpollFlags::EPOLLIN, 0)).context("wait for the ring")?;
        Ok(RingReader { memory, wakes, clock })
    }
}

#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    undecodable: u64,
}

impl Batch {
    /// Pieces that were read as records.
    fn len(&self) -> usize {
        self.records.len() + self.undecodable as usize
    }

    /// Adds a piece of the ring: one record after the other. What cannot be decoded is counted; nothing is found after a record whose
    /// head gives no length.
    fn add_all(&mut self, mut bytes: &[u8], clock: &Clock) {
        while let Some((record, rest)) = event::split(bytes) {
            self.add(record, clock);
            bytes = rest;
        }
    }

    fn add(&mut self, bytes: &[u8], clock: &Clock) {
        let record = match Event::decode(bytes) {
            Some(Event::Flow4 { entry, facts }) => Record::of4(entry, facts, clock),
            Some(Event::Flow6 { entry, facts }) => Record::of6(entry, facts, clock),
            // Traced packets have a ring of their own.
            Some(Event::Traced(_)) | None => None,
        };
        match record {
            Some(record) => self.records.push(record),
            None => self.undecodable += 1,
        }
    }
}

/// Lets another thread end a wait.
#[derive(Debug)]
pub struct Wakeup(EventFd);

impl Wakeup {
    /// Creates one that is not raised.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn new() -> Result<Wakeup> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Wakeup(EventFd::from_flags(flags).context("create an eventfd")?))
    }

    /// A descriptor that is readable while it is raised.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Lowers it: it no longer ends later waits.
    pub fn lower(&self) {
        // Fails if it is not raised.
        let _ = self.0.read();
    }

    /// Ends the current wait and all later ones until it is lowered.
    pub fn raise(&self) {
        // Fails only if the counter is close to 2^64.
        let _ = self.0.write(1);
    }
}

/// Pieces of a ring that are read before it is asked whether there are enough records.
const PIECES: usize = 16;

/// The reading end of a ring.
pub struct RingReader {
    memory: MappedRing,
    wakes: Epoll,
    clock: Arc<Clock>,
}

impl RingReader {
    /// Sleeps until the programs wake it, `timeout` is over, or `wakeup` is raised. Returns whether `wakeup` is raised.
    ///
    /// # Errors
    ///
    /// The kernel refuses to wait.
    pub fn wait(&self, timeout: Duration, wakeup: &Wakeup) -> Result<bool> {
        let mut fds =
            [PollFd::new(self.wakes.0.as_fd(), PollFlags::POLLIN), PollFd::new(wakeup.fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(fds[1].any().unwrap_or(false)),
            Err(errno) => Err(errno).context("wait for records"),
        }
    }

    /// Moves about `most` records into `records`, which is cleared first; returns how many could not be decoded.
    pub fn read(&mut self, most: usize, records: &mut Vec<Record>) -> u64 {
        records.clear();
        self.clock.refresh();
        let mut batch = Batch { records: std::mem::take(records), undecodable: 0 };
        // A piece of the ring may hold many records.
        while batch.len() < most && self.memory.consume(PIECES, |bytes| batch.add_all(bytes, &self.clock)) > 0 {}
        *records = batch.records;
        batch.undecodable
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::tests::{bytes, record};
    use super::super::skel::types::{nm_kind, nm_number};
    use super::*;

    #[test]
    fn what_is_no_record_of_a_flow_is_counted() {
        let (flow, traced) = (nm_number::NM_FLOW_VERSION.0 as u8, nm_number::NM_TRACED_VERSION.0 as u8);
        let mut batch = Batch::default();
        let mut add = |kind, version, length: u16| {
            batch.add_all(bytes(&record(kind, version, length), length.into()), &Clock::of_capture());
            (batch.records.len(), batch.undecodable)
        };
        assert_eq!(add(nm_kind::NM_KIND_FLOW4, flow, 64), (1, 0));
        assert_eq!(add(nm_kind::NM_KIND_NOTED6, flow, 152), (2, 0));
        // A future kind, version and length, and a record that belongs in another ring.
        assert_eq!(add(nm_kind(200), flow, 64), (2, 1));
        assert_eq!(add(nm_kind::NM_KIND_FLOW4, flow + 1, 64), (2, 2));
        assert_eq!(add(nm_kind::NM_KIND_FLOW4, flow, 72), (2, 3));
        assert_eq!(add(nm_kind::NM_KIND_TRACED, traced, 464), (2, 4));
        assert_eq!(batch.records.iter().map(|r| r.v6).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_piece_of_the_ring_holds_many_records() {
        let flow = nm_number::NM_FLOW_VERSION.0 as u8;
        let read = |kinds: &[(nm_kind, u16)], cut: usize| {
            let mut words: Vec<u64> = kinds.iter().flat_map(|&(kind, length)| record(kind, flow, length)).collect();
            let mut batch = Batch::default();
            words.truncate(words.len() - cut);
            batch.add_all(bytes(&words, size_of_val(&*words)), &Clock::of_capture());
            (batch.records.iter().map(|r| r.v6).collect::<Vec<_>>(), batch.undecodable)
        };
        let (v4, v6, future) = ((nm_kind::NM_KIND_FLOW4, 64), (nm_kind::NM_KIND_NOTED6, 152), (nm_kind(200), 72));
        assert_eq!(read(&[v4, v6, v4], 0), (vec![false, true, false], 0));
        assert_eq!(read(&[v4, future, v6], 0), (vec![false, true], 1), "a kind of the future is passed over");
        assert_eq!(read(&[v6, v4, v4], 1), (vec![true, false], 1), "the last one is cut off");
        assert_eq!(read(&[v4, (nm_kind::NM_KIND_FLOW4, 2), v4], 0), (vec![false], 1), "shorter than its own head");
    }
}
