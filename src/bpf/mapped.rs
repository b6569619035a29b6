//! Array maps mapped into memory, so that reading a counter costs a load instead of a system call.

use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use libbpf_rs::MapCore;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array of `T`. The kernel writes to it while it is read, so values are copied out word by word, never referenced.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    start: NonNull<T>,
    entries: usize,
    bytes: NonZeroUsize,
}

// SAFETY: the pointer is to shared memory that lives as long as the value; access is by volatile loads.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Copy> Mapped<T> {
    /// Maps a BPF_F_MMAPABLE array whose values are `T`.
    ///
    /// # Errors
    ///
    /// The values have another size, the map is empty, or the kernel refuses.
    pub(super) fn new(map: &impl MapCore, entries: usize) -> Result<Mapped<T>> {
        let name = map.name().to_string_lossy().into_owned();
        anyhow::ensure!(map.value_size() as usize == size_of::<T>(), "map {name}: unexpected value size");
        let bytes = NonZeroUsize::new(entries * size_of::<T>()).with_context(|| format!("map {name} is empty"))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, 0) }
                .with_context(|| format!("mmap map {name}"))?;
        Ok(Mapped { start: start.cast(), entries, bytes })
    }

    /// A copy of entry `i`. While the kernel writes, its words of eight bytes may stem from different moments, but each is
    /// consistent.
    pub(super) fn read(&self, i: usize) -> Option<T> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        if i >= self.entries {
            return None;
        }
        let mut copy = MaybeUninit::<T>::uninit();
        for word in 0..size_of::<T>() / 8 {
            // SAFETY: both are in bounds, of the mapping and of the copy. The mapping starts with a page and its entries are
            // whole words, so the word is aligned; others write to it atomically.
            unsafe {
                let from = AtomicU64::from_ptr(self.start.add(i).cast::<u64>().add(word).as_ptr());
                copy.as_mut_ptr().cast::<u64>().add(word).write_unaligned(from.load(Ordering::Relaxed));
            }
        }
        // SAFETY: all of its words are written; T consists of integers, which are valid for any bytes.
        Some(unsafe { copy.assume_init() })
    }

    /// Sets the four bytes at `offset` of entry `i` at once. Only for fields that no program writes to.
    pub(super) fn store(&self, i: usize, offset: usize, value: u32) {
        debug_assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        if i < self.entries && offset + 4 <= size_of::<T>() {
            // SAFETY: in bounds of the entry, and aligned as the entry is.
            unsafe { self.start.add(i).byte_add(offset).cast::<u32>().write_volatile(value) };
        }
    }

    /// Sets the byte at `offset` of entry `i`.
    pub(super) fn store_byte(&self, i: usize, offset: usize, value: u8) {
        if i < self.entries && offset < size_of::<T>() {
            // SAFETY: in bounds of the entry.
            unsafe { self.start.add(i).cast::<u8>().add(offset).write_volatile(value) };
        }
    }

    /// Sets entry `i` to zeros, its first word last. Only for an entry that no program writes to.
    pub(super) fn clear(&self, i: usize) {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
        if i < self.entries {
            for word in (0..size_of::<T>() / 8).rev() {
                // SAFETY: in bounds of the entry, which is whole aligned words.
                unsafe { self.start.add(i).cast::<u64>().add(word).write_volatile(0) };
            }
        }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the range that `new` mapped; no reference into it is ever handed out.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}
