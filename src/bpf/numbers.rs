//! Constants of the BPF programs that other modules need. They come from the skeleton, so none is written twice.

use super::skel::types::{nm_entry4, nm_entry6, nm_number};

/// Length in bytes of the longest TLS alert that ciphers in use produce.
pub const ALERT_BYTES: u32 = nm_number::NM_ALERT.0;
/// Number of rings that the programs can write to, and so of workers.
pub const MOST_RINGS: usize = nm_number::NM_MAX_RINGS.0 as usize;
/// Number of interfaces that can have books of their own on each CPU; the others share one set.
pub const BOOKED_INTERFACES: usize = nm_number::NM_INTERFACES.0 as usize;
/// Number of slots tried for the books of an interface.
pub const BOOK_PROBES: usize = nm_number::NM_PROBES.0 as usize;
/// Largest number of sets in a group of the flow cache.
pub const MOST_GROUP_SETS: u32 = nm_number::NM_GROUP_MAX.0;
/// Largest number of sets in a flow cache of one CPU.
pub const MOST_CACHE_SETS: u32 = nm_number::NM_GROUPS.0 * MOST_GROUP_SETS;
/// Largest number of slots in a flow cache of one CPU.
pub const MOST_CACHE_SLOTS: u32 = MOST_CACHE_SETS * nm_number::NM_WAYS.0;
/// Size in bytes of a slot of the flow caches, for IPv4 and IPv6.
pub const CACHE_SLOT_BYTES: [u64; 2] = [size_of::<nm_entry4>() as u64, size_of::<nm_entry6>() as u64];
/// Number of IPv6 extension headers that are walked.
pub const MOST_EXTENSIONS: usize = nm_number::NM_EXTENSIONS.0 as usize;
/// Number of tags, labels and the like before IP that are walked in addition to two VLAN tags.
pub const MOST_SHIMS: usize = nm_number::NM_SHIMS.0 as usize;
