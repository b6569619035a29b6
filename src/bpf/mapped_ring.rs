//! The memory of a ring, as its reader sees it. libbpf maps the data twice, one copy behind the other, so that a piece that goes round
//! the end is whole in memory. The kernel counts every page of that as resident: with two workers and the default configuration 8 MiB,
//! more than all else that an idle agent has for itself. Here only as much is mapped twice as the longest piece takes.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use anyhow::{Context, Result};
use nix::libc::off_t;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a piece's head: its length, with two flags, and a word for the kernel.
const HEAD: usize = 8;
/// The piece is being written (BPF_RINGBUF_BUSY_BIT).
const BUSY: u32 = 1 << 31;
/// The piece was given up (BPF_RINGBUF_DISCARD_BIT).
const DISCARDED: u32 = 1 << 30;
/// No piece is longer: the programs write far less at a time. A multiple of every page size.
const LONGEST: usize = 64 << 10;

/// A mapping of some pages of a ring.
struct Pages {
    start: NonNull<u8>,
    bytes: NonZeroUsize,
}

impl Pages {
    fn new(ring: impl AsFd, bytes: usize, offset: usize, protection: ProtFlags) -> Result<Pages> {
        let bytes = NonZeroUsize::new(bytes).context("a mapping is not empty")?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, ring, offset as off_t) }?;
        Ok(Pages { start: start.cast(), bytes })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range that `new` mapped; no reference into it outlives the value.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}

/// A ring's memory, for its only reader.
pub(super) struct MappedRing {
    /// The page with the reader's position.
    reader: Pages,
    /// The page with the position of the programs, then the data, then the start of the data again.
    data: Pages,
    page: usize,
    size: usize,
}

impl MappedRing {
    /// Maps a ring with `size` bytes of data, a power of two and whole pages.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(super) fn new(ring: impl AsFd, size: usize) -> Result<MappedRing> {
        let page = procfs::page_size() as usize;
        let reader = Pages::new(&ring, page, 0, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let data = Pages::new(&ring, page + size + LONGEST.min(size), page, ProtFlags::PROT_READ)?;
        Ok(MappedRing { reader, data, page, size })
    }

    /// How far was read.
    fn reader(&self) -> &AtomicUsize {
        // SAFETY: the page starts with an aligned word, which the kernel reads atomically; it lives as long as the mapping.
        unsafe { AtomicUsize::from_ptr(self.reader.start.cast().as_ptr()) }
    }

    /// How far was written.
    fn written(&self) -> usize {
        // SAFETY: the page starts with an aligned word, which the kernel writes atomically.
        let position = unsafe { self.data.start.cast::<usize>().read_volatile() };
        fence(Ordering::Acquire);
        position
    }

    /// The length of the piece at this place of the mapping, with its flags.
    fn head(&self, place: usize) -> u32 {
        // SAFETY: a piece begins within the data, at a multiple of eight bytes, and the kernel writes the word atomically.
        let head = unsafe { self.data.start.add(place).cast::<u32>().read_volatile() };
        fence(Ordering::Acquire);
        head
    }

    /// Hands pieces to `take`, `most` of them at most, and frees their room; returns how many there were.
    pub(super) fn consume(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut at = self.reader().load(Ordering::Relaxed);
        let (mut end, mut taken) = (at, 0);
        while taken < most {
            if at == end {
                end = self.written();
                if at == end {
                    break;
                }
            }
            let place = self.page + (at & (self.size - 1));
            let head = self.head(place);
            if head & BUSY != 0 {
                break;
            }
            let length = (head & !DISCARDED) as usize;
            if head & DISCARDED == 0 {
                let there = self.data.bytes.get() - place - HEAD;
                // SAFETY: in bounds of the mapping, and not written to until the reader's position has passed it.
                take(unsafe {
                    std::slice::from_raw_parts(self.data.start.add(place + HEAD).as_ptr(), length.min(there))
                });
                taken += 1;
            }
            at = at.wrapping_add((HEAD + length).next_multiple_of(8));
            self.reader().store(at, Ordering::Release);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    const SIZE: usize = 64 << 10;

    /// The kernel's side of a ring, in a file.
    struct Writer {
        file: File,
        at: usize,
    }

    impl Writer {
        fn new() -> Writer {
            let file = File::from(memfd_create("ring", MFdFlags::empty()).unwrap());
            file.set_len((2 * page() + 2 * SIZE) as u64).unwrap();
            Writer { file, at: 0 }
        }

        /// Writes a piece, both copies of what is there twice.
        fn write(&mut self, flags: u32, piece: &[u8]) {
            let mut bytes = (piece.len() as u32 | flags).to_ne_bytes().to_vec();
            bytes.extend([0; 4]);
            bytes.extend(piece);
            for (i, byte) in bytes.iter().enumerate() {
                let place = (self.at + i) % SIZE;
                for copy in [place, place + SIZE] {
                    self.file.write_all_at(&[*byte], (2 * page() + copy) as u64).unwrap();
                }
            }
            self.at += bytes.len().next_multiple_of(8);
            self.file.write_all_at(&self.at.to_ne_bytes(), page() as u64).unwrap();
        }

        fn freed(&self) -> usize {
            let mut word = [0; size_of::<usize>()];
            self.file.read_exact_at(&mut word, 0).unwrap();
            usize::from_ne_bytes(word)
        }
    }

    fn page() -> usize {
        procfs::page_size() as usize
    }

    fn read(ring: &mut MappedRing, most: usize) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        assert_eq!(ring.consume(most, |piece| pieces.push(piece.to_vec())), pieces.len());
        pieces
    }

    #[test]
    fn pieces_come_whole_and_in_order_however_often_the_ring_goes_round() {
        let mut writer = Writer::new();
        let mut ring = MappedRing::new(&writer.file, SIZE).unwrap();
        for round in 0..400u32 {
            let pieces = [1, 152, 500].map(|length| vec![(round + length as u32) as u8; length]);
            pieces.iter().for_each(|piece| writer.write(0, piece));
            assert_eq!(read(&mut ring, 2), pieces[..2]);
            assert_eq!(read(&mut ring, 2), pieces[2..]);
            assert_eq!(writer.freed(), writer.at);
        }
        assert!(writer.at > 4 * SIZE);
    }

    #[test]
    fn what_is_being_written_waits_and_what_was_given_up_is_passed_over() {
        let mut writer = Writer::new();
        let mut ring = MappedRing::new(&writer.file, SIZE).unwrap();
        assert!(read(&mut ring, 10).is_empty());
        writer.write(DISCARDED, &[1; 72]);
        writer.write(0, &[2; 72]);
        let before = writer.at;
        writer.write(BUSY, &[3; 72]);
        writer.write(0, &[4; 72]);
        assert_eq!(read(&mut ring, 10), [[2; 72]]);
        assert_eq!(writer.freed(), before, "the others may not be overwritten");
        writer.file.write_all_at(&72u32.to_ne_bytes(), (2 * page() + before) as u64).unwrap();
        assert_eq!(read(&mut ring, 10), [[3; 72], [4; 72]]);
    }

    #[test]
    fn a_ring_smaller_than_the_longest_piece_is_mapped_twice_and_no_further() {
        let file = OwnedFd::from(Writer::new().file);
        let ring = MappedRing::new(&file, page()).unwrap();
        assert_eq!(ring.data.bytes.get(), 3 * page());
    }
}
