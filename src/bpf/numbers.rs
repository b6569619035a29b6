//! Numbers of the programs that others need too. They are the skeleton's: none is written twice.

use super::skel::types::{nm_entry4, nm_entry6, nm_number};

/// Bytes of the longest TLS alert that the ciphers in use make.
pub const ALERT_BYTES: u32 = nm_number::NM_ALERT.0;
/// Rings that the programs can write to, and so workers.
pub const MOST_RINGS: usize = nm_number::NM_MAX_RINGS.0 as usize;
/// Interfaces that can have books of their own on each CPU; the others share one.
pub const BOOKED_INTERFACES: usize = nm_number::NM_INTERFACES.0 as usize;
/// Slots that an interface looks at for books of its own.
pub const BOOK_PROBES: usize = nm_number::NM_PROBES.0 as usize;
/// Sets of a group of the flow cache, at most.
pub const MOST_GROUP_SETS: u32 = nm_number::NM_GROUP_MAX.0;
/// Sets of a flow cache on each CPU, at most.
pub const MOST_CACHE_SETS: u32 = nm_number::NM_GROUPS.0 * MOST_GROUP_SETS;
/// Slots of a flow cache on each CPU, at most.
pub const MOST_CACHE_SLOTS: u32 = MOST_CACHE_SETS * nm_number::NM_WAYS.0;
/// Bytes of a slot of the flow caches, for IPv4 and IPv6.
pub const CACHE_SLOT_BYTES: [u64; 2] = [size_of::<nm_entry4>() as u64, size_of::<nm_entry6>() as u64];
/// Extension headers of IPv6 that are walked.
pub const MOST_EXTENSIONS: usize = nm_number::NM_EXTENSIONS.0 as usize;
/// Tags, labels and the like before IP that are walked besides two VLAN tags.
pub const MOST_SHIMS: usize = nm_number::NM_SHIMS.0 as usize;
