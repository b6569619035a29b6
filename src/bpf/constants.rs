//! Sets what is fixed once the programs are loaded: the constants of bpf/config.h.

use std::time::Duration;

use anyhow::{Context, Result};

use super::clock::Clock;
use super::load::{ProgramOptions, TimestampSource};
use super::namespaces::own_namespace;
use super::numbers::MOST_CACHE_SETS;
use super::skel::OpenNetmonSkel;
use super::skel::types::{nm_clock_source, nm_number};

/// A connection that has been silent for this long may lose its slot in the pairing table.
const PAIR_STALE: Duration = Duration::from_secs(1);
/// Minimum time between records of one flow that are written only because it has many samples.
const SAMPLE_GAP: Duration = Duration::from_millis(16);

/// Sets the constants of the programs before they are loaded.
pub(super) fn set(
    open: &mut OpenNetmonSkel<'_>,
    options: &ProgramOptions,
    clock: &Clock,
    cpus: usize,
    seed: u64,
) -> Result<()> {
    let [sets4, sets6] = sets(options);
    let rodata = open.maps.rodata_data.as_deref_mut().context("the BPF object has no constants")?;
    rodata.nm_shift4 = sets4.ilog2();
    rodata.nm_shift6 = sets6.ilog2();
    rodata.nm_rings = options.rings as u32;
    // Each CPU counts only its own records: the share of each must keep those of all within a batch.
    // Half a ring leaves room for what arrives while the worker wakes up.
    rodata.nm_wake_every = (options.batch.min(options.ring_records / 2) / cpus).max(1) as u32;
    // 0: no owner. A replay of a capture works without a namespace.
    rodata.nm_home = own_namespace().unwrap_or_default();
    rodata.nm_seed = seed;
    rodata.nm_idle = clock.ticks(options.idle).min(u64::from(u32::MAX / 2)) as u32;
    rodata.nm_report = clock.ticks(options.report).min(u64::from(u32::MAX / 2)) as u32;
    rodata.nm_forget = options.forget;
    rodata.nm_fragment_timeout = clock.ticks(Duration::from_secs(30)); // as net.ipv4.ipfrag_time
    rodata.nm_tick_ns = clock.tick_ns() as u32;
    let (source, unit_shift, sample_gap) = match options.timestamps {
        TimestampSource::Kernel => (nm_clock_source::NM_CLOCK_KERNEL, 0, clock.ticks(SAMPLE_GAP)),
        TimestampSource::Hardware => (nm_clock_source::NM_CLOCK_HARDWARE, 0, clock.ticks(SAMPLE_GAP)),
        // All samples of a capture are reported.
        TimestampSource::Capture => (nm_clock_source::NM_CLOCK_CAPTURE, 20, 0),
    };
    let units = |d: Duration| d.as_nanos().div_ceil(u128::from(clock.tick_ns()) << unit_shift).min(0x7fff);
    rodata.nm_clock = source.0 as u8;
    rodata.nm_unit_shift = unit_shift;
    rodata.nm_sample_gap = sample_gap as u32;
    rodata.nm_latency = u8::from(options.latency.is_some());
    rodata.nm_probe_every = units(options.latency.unwrap_or_default()) as u16;
    rodata.nm_pair_stale = units(PAIR_STALE) as u32;
    rodata.nm_apps = options.apps.iter().fold(0, |mask, app| mask | app.bit());
    rodata.nm_decapsulate = u8::from(options.decapsulation);
    rodata.nm_preemptible = u8::from(super::preempt::is_forbidden());
    rodata.nm_pair_shift = pairs(cpus).ilog2();
    Ok(())
}

/// Number of sets in the caches of each CPU, for IPv4 and IPv6.
pub(super) fn sets(options: &ProgramOptions) -> [u32; 2] {
    [options.cache_slots, options.cache_slots / 4].map(sets_for)
}

/// Number of slots in the pairing table.
pub(super) fn pairs(cpus: usize) -> u32 {
    (cpus as u32 * nm_number::NM_PAIRS.0).next_power_of_two()
}

/// Number of sets for `slots` slots, within what the programs support.
fn sets_for(slots: u32) -> u32 {
    slots.div_ceil(nm_number::NM_WAYS.0).next_power_of_two().clamp(nm_number::NM_GROUPS.0, MOST_CACHE_SETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_powers_of_two_in_range() {
        assert_eq!(sets_for(16384), 4096);
        assert_eq!(sets_for(10000), 4096);
        assert_eq!(sets_for(1), 64);
        assert_eq!(sets_for(u32::MAX / 8), 64 * 1024);
    }
}
